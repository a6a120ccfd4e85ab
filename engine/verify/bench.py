"""What the checks of --verify share: a model, a few images, attacks that run only once, and the type of a finding."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import Attack, Outcome, join
from attacks import class_weights as class_weights_of
from engine.records.naming import make_title
from metrics import counts_per_image, scores
from utils.divergence import refuse_diverged
from utils.modes import eval_mode
from utils.snapshots import take_snapshot
from utils.strict_json import canonical

FEW = 2  # images in the slow checks


@dataclass
class Finding:
    """A check's result: measured figures {name: value}, the requirements, and why it failed ("" if it passed)."""

    passed: bool
    figures: dict
    tolerance: str
    why: str = ""


@dataclass
class ScoredImage:
    """One image, clean or attacked, [1, 3, H, W], and the counts of its prediction per class, int64 [C] each."""

    image: Tensor
    intersection: Tensor
    union: Tensor
    pixels: Tensor

    @property
    def correct(self) -> int:
        """Return the number of labelled pixels that are predicted correctly."""
        return int(self.intersection.sum())


def judge(figures: dict, demands: dict[str, bool], *, means: str) -> Finding:
    """Return a Finding that passed if every demand {requirement: is it met} is met; `means` interprets a failure."""
    violated = [demand for demand, met in demands.items() if not met]
    why = f"violated: {'; '.join(violated)}. {means}" if violated else ""
    return Finding(not violated, figures, "; ".join(demands), why)


def pooled_accuracy(scored: dict[int, ScoredImage]) -> float:
    """Return the percentage of labelled pixels, over all images, that are predicted correctly."""
    results = scored.values()
    return 100 * sum(result.correct for result in results) / sum(int(result.pixels.sum()) for result in results)


def pooled_mean_iou(scored: dict[int, ScoredImage]) -> float:
    """Return the mean IoU in percent over the classes that occur in labels or predictions, pooled over all images."""
    names = ("intersection", "union", "pixels")
    return 100 * scores(*([getattr(result, name).tolist() for result in scored.values()] for name in names))["Mean IoU"]


class Bench:
    """A model and the images to check attacks on, one at a time because their sizes may differ.

    images: float [3, H, W] in [0, 1] each; labels: int64 [H, W] each; eps: linf radius. class_weights: [C] for mce_bal
    (default: from these labels). An image's index k is its image_id, so its random numbers depend on (seed, k).
    transfer_from: {name: network}, those that score_transferred() attacks. every, few: the indices of all images, and
    of the labelled ones that slow checks use. on_attack(title), if set, is called before each attack. Raises ValueError
    if no pixel is labelled.
    """

    def __init__(self, model: nn.Module, images: list[Tensor], labels: list[Tensor], *, eps: float,
                 class_weights=None, seed: int = 1, transfer_from: dict[str, nn.Module] | None = None):
        if not images or len(images) != len(labels):
            raise ValueError(f"{len(images)} images, {len(labels)} labels: give one label map for each image")
        device = next(model.parameters()).device
        self.model, self.eps, self.seed = model, float(eps), seed
        self.before = take_snapshot(model)
        self.images = [image[None].to(device, memory_format=torch.channels_last) for image in images]
        self.labels = [label[None].to(device) for label in labels]
        self.clean = {k: self.score(k, self.images[k]) for k in range(len(images))}
        pixels = torch.stack([result.pixels for result in self.clean.values()]).cpu()  # [N, C]
        self.every, self.num_classes = list(self.clean), pixels.shape[1]
        self.few = pixels.sum(1).nonzero().flatten().tolist()[:FEW]
        if not self.few:
            raise ValueError("no pixel of these images is labelled: choose other images")
        self.weights_from = "these images" if class_weights is None else "given"
        self.class_weights = class_weights_of(pixels.sum(0)) if class_weights is None else class_weights
        self.source = join(list(transfer_from.values())) if transfer_from else None
        self.source_name = "+".join(transfer_from or ())
        self.on_attack, self._scored = None, {}

    def logits(self, images: Tensor) -> Tensor:
        """Return the model's logits [B, C, H, W], in eval mode."""
        with eval_mode(self.model), torch.no_grad():
            logits = self.model(images)
        refuse_diverged(logits)
        return logits

    def score(self, k: int, image: Tensor) -> ScoredImage:
        """Score `image` [1, 3, H, W], a version of image k, against the labels of image k."""
        logits = self.logits(image)
        counts = counts_per_image(self.labels[k], logits.argmax(1), logits.shape[1])
        return ScoredImage(image, *(count[0] for count in counts))

    def make_attack(self, kind: type[Attack], **settings) -> Attack:
        """Return an attack of this kind; its eps and seed are the bench's unless given."""
        return kind(**{"eps": self.eps, "seed": self.seed, **settings})

    def run(self, attack: Attack, k: int, *, model=None, labels=None, start=None) -> Outcome:
        """Run `attack` on image k, even if it ran before; model and labels are the bench's unless given."""
        if self.on_attack is not None:
            self.on_attack(make_title(attack.settings()))
        model = self.model if model is None else model
        labels = self.labels[k] if labels is None else labels
        return attack.run(model, self.images[k], labels, image_ids=[k], start=start)

    def score_attacked(self, attack: Attack, which) -> dict[int, ScoredImage]:
        """Score the images of these indices under `attack`, which runs once per image for all checks together."""
        for k in which:
            key = canonical([attack.settings(), k])
            if key not in self._scored:
                self._scored[key] = self.score(k, self.run(attack, k).images)
        return {k: self._scored[canonical([attack.settings(), k])] for k in which}

    def score_transferred(self, attack: Attack, which) -> dict[int, ScoredImage]:
        """Score the images of these indices that `attack` makes on the other networks."""
        return {k: self.score(k, self.run(attack, k, model=self.source).images) for k in which}

    def score_chain(self, attacks: list[Attack], which) -> list[dict[int, ScoredImage]]:
        """Score the images under each of `attacks`; each one starts from the result of the one before it."""
        links, start = [], {}
        for attack in attacks:
            results = {k: self.run(attack, k, start=start.get(k)).images for k in which}
            links.append({k: self.score(k, results[k]) for k in which})
            start = results
        return links
