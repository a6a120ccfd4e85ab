"""What the checks of --verify share: a model, a few images, attacks that run once, and what a check found."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import Attack, Outcome
from attacks import class_weights as class_weights_of
from engine.records.naming import title_of
from metrics import counts_per_image, scores
from utils.modes import eval_mode
from utils.snapshots import take_snapshot
from utils.strict_json import canonical

FEW = 2  # images of the checks that take many passes


@dataclass
class Finding:
    """What a check found: figures {name: value}, what it asks for, and why it failed ("" where it passed)."""

    passed: bool
    figures: dict
    tolerance: str
    why: str = ""


@dataclass
class Shot:
    """One image as attacked, [1, 3, H, W], and its counts per class, int64 [C] each."""

    image: Tensor
    intersection: Tensor
    union: Tensor
    pixels: Tensor

    @property
    def right(self) -> int:
        """Labelled pixels that are predicted right."""
        return int(self.intersection.sum())


def judge(figures: dict, demands: dict[str, bool], *, means: str) -> Finding:
    """Passed if every demand {what is asked: is it so} is met; `means` says what to think where one is not."""
    broken = [demand for demand, met in demands.items() if not met]
    why = f"not so: {'; '.join(broken)}. {means}" if broken else ""
    return Finding(not broken, figures, "; ".join(demands), why)


def pooled_accuracy(shots: dict[int, Shot]) -> float:
    """Labelled pixels that are right, in percent of all."""
    return 100 * sum(shot.right for shot in shots.values()) / sum(int(shot.pixels.sum()) for shot in shots.values())


def pooled_mean_iou(shots: dict[int, Shot]) -> float:
    """Mean IoU over the classes that the images have a union in, in percent."""
    counts = [[getattr(shot, name).tolist() for shot in shots.values()] for name in ("intersection", "union", "pixels")]
    return 100 * scores(*counts)["Mean IoU"]


class Bench:
    """A model and images to check attacks on, one at a time, as they may differ in size.

    images: float [3, H, W] in [0, 1] each; labels: int64 [H, W] each; eps: of linf. class_weights: [C] for mce_bal,
    without them from these labels. An image's number is its image_id, so its random numbers depend on (seed, number).
    every, few: the numbers of all images, and of those with labels that expensive checks take. watch(title), if set, is
    told of each attack. Raises ValueError where no pixel is labelled.
    """

    def __init__(self, model: nn.Module, images: list[Tensor], labels: list[Tensor], *, eps: float,
                 class_weights=None, seed: int = 1):
        if not images or len(images) != len(labels):
            raise ValueError(f"{len(images)} images, {len(labels)} labels: at least one, and as many of both")
        device = next(model.parameters()).device
        self.model, self.eps, self.seed = model, float(eps), seed
        self.before = take_snapshot(model)
        self.images = [image[None].to(device, memory_format=torch.channels_last) for image in images]
        self.labels = [label[None].to(device) for label in labels]
        self.clean = {k: self.shot(k, self.images[k]) for k in range(len(images))}
        pixels = torch.stack([shot.pixels for shot in self.clean.values()]).cpu()  # [N, C]
        self.every, self.num_classes = list(self.clean), pixels.shape[1]
        self.few = pixels.sum(1).nonzero().flatten().tolist()[:FEW]
        if not self.few:
            raise ValueError("no pixel of the images is labelled: choose others")
        self.weights_from = "these images" if class_weights is None else "given"
        self.class_weights = class_weights_of(pixels.sum(0)) if class_weights is None else class_weights
        self.watch, self._kept = None, {}

    def logits(self, images: Tensor) -> Tensor:
        """The model's logits [B, C, H, W], in eval mode."""
        with eval_mode(self.model), torch.no_grad():
            return self.model(images)

    def shot(self, k: int, image: Tensor) -> Shot:
        """Image k scored as `image` [1, 3, H, W]."""
        logits = self.logits(image)
        counts = counts_per_image(self.labels[k], logits.argmax(1), logits.shape[1])
        return Shot(image, *(count[0] for count in counts))

    def attack(self, kind: type[Attack], **settings) -> Attack:
        """An attack of this kind with the bench's eps and seed, unless settings say otherwise."""
        return kind(**{"eps": self.eps, "seed": self.seed, **settings})

    def run(self, attack: Attack, k: int, *, model=None, labels=None, start=None) -> Outcome:
        """`attack` on image k, always anew; other labels, another model and a start where they are given."""
        if self.watch is not None:
            self.watch(title_of(attack.settings()))
        model = self.model if model is None else model
        labels = self.labels[k] if labels is None else labels
        return attack.run(model, self.images[k], labels, image_ids=[k], start=start)

    def attacked(self, attack: Attack, which) -> dict[int, Shot]:
        """The images of these numbers under `attack`, run once for each image however many checks ask."""
        for k in which:
            key = canonical([attack.settings(), k])
            if key not in self._kept:
                self._kept[key] = self.shot(k, self.run(attack, k).images)
        return {k: self._kept[canonical([attack.settings(), k])] for k in which}

    def chain(self, attacks: list[Attack], which) -> list[dict[int, Shot]]:
        """The images under each of `attacks`, which begins at the result of the one before it."""
        links, start = [], {}
        for attack in attacks:
            results = {k: self.run(attack, k, start=start.get(k)).images for k in which}
            links.append({k: self.shot(k, results[k]) for k in which})
            start = results
        return links
