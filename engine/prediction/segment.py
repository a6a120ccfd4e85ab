"""Segment images in batches of one size, clean and attacked."""
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attacks import NORMS, Attack
from attacks.search import TargetSizeError
from datasets.check import check_pair
from datasets.files import read_image, read_mask
from datasets.image_lists import to_one_line
from engine.evaluation.evaluate import show_progress
from engine.prediction.inputs import InputImage, Size
from network import precise
from utils.device import device_of
from utils.divergence import refuse_diverged
from utils.errors import UserError
from utils.images import overlay, to_uint8
from utils.modes import eval_mode

MOST_PIXELS = 2**23  # of a batch with several images: four of 2048x1024
LABEL_MAP = ".png"


@dataclass
class Segmenter:
    """A model and what is made of each image: label map, overlay, logits, and under `attack` the same once more.

    model: images [B, 3, H, W] in [0, 1] -> logits [B, C, H, W]; it predicts in bfloat16 with amp, and is attacked as it
    is. masks: files of the labels for the attack, which read_mask makes int [H, W]; without them the labels are the
    clean predictions. problems: gets a line for each image that can't be segmented.
    """

    model: nn.Module
    classes: object
    amp: bool = False
    attack: Attack | None = None
    masks: dict[InputImage, Path] | None = None
    read_mask: Callable[[Path], Tensor] = read_mask
    save_logits: bool = False
    overlay_alpha: float = 0.7
    problems: list[str] = field(default_factory=list)

    @property
    def endings(self) -> list[str]:
        """Return the endings of the files that are made of an image."""
        kinds = [LABEL_MAP, "_overlay.png", *(["_logits.npz"] if self.save_logits else [])]
        return kinds + (["_adv.png", "_adv_pred.png", *(f"_adv{kind}" for kind in kinds[1:])] if self.attack else [])

    def run(self, sizes: dict[InputImage, Size], *, batch_size: int) -> Iterator[tuple[InputImage, dict, dict]]:
        """Yield (image, {ending: content of the file}, a description of the result) of each image.

        sizes: of read_sizes(); images of one size share batches.
        """
        batches = plan_batches(sizes, batch_size=batch_size)
        with eval_mode(self.model), show_progress(batches, "predict") as bar:
            for batch in bar:
                for loaded in self._load(batch):
                    yield from self._segment(*loaded)

    def _load(self, batch: list[InputImage]) -> Iterator[tuple[list[InputImage], Tensor, Tensor | None]]:
        """Yield (images, pixels uint8 [B, 3, H, W], masks [B, H, W] or None); EXIF may turn some images of a batch."""
        groups = {}
        for image in batch:
            try:
                pixels, mask = read_image(image.path, upright=True), None
                if self.masks is not None:
                    mask = self.read_mask(self.masks[image]).long()
                    check_pair(pixels, mask, num_classes=self.classes.num_classes,
                               files=(to_one_line(image.path), to_one_line(self.masks[image])))
                groups.setdefault(pixels.shape, []).append((image, pixels, mask))
            except UserError as problem:
                self.problems.append(str(problem))
        for group in groups.values():
            names, pixels, masks = zip(*group, strict=True)
            yield list(names), _stack(pixels), None if self.masks is None else _stack(masks)

    def _segment(self, batch: list[InputImage], pixels: Tensor, masks: Tensor | None):
        """Yield what run() does for images of one size."""
        device = device_of(self.model)
        images = pixels.float().div(255).to(device, memory_format=torch.channels_last)  # [B, 3, H, W]
        logits = self._predict(images)
        if self.attack is not None:
            labels = logits.argmax(1) if masks is None else masks.to(device)
            try:
                adv_images = self._attack(images, labels, ids=[zlib.crc32(image.numpy().tobytes()) for image in pixels])
            except TargetSizeError as error:
                self.problems += [f"{to_one_line(image.path)}: --target_class: {error}" for image in batch]
                return
            adv_logits = self._predict(adv_images)
            changed = (adv_logits.argmax(1) != logits.argmax(1)).float().mean((1, 2)).tolist()
        for k, image in enumerate(batch):
            label_map, *kinds = self._draw(images[k], logits[k])
            files, described = dict(zip(self.endings, [label_map, *kinds], strict=False)), {"image": str(image.path)}
            if self.attack is not None:
                adv_files = [_encode(to_uint8(adv_images[k])), *self._draw(adv_images[k], adv_logits[k])]
                files |= dict(zip(self.endings[len(files):], adv_files, strict=True))
                described |= {"labels": "clean prediction" if self.masks is None else str(self.masks[image]),
                              "changed_pixels": changed[k]}
            yield image, files, described

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:
        logits = precise(self.model, amp=self.amp)(images)  # [B, C, H, W]
        refuse_diverged(logits)
        return logits

    def _attack(self, images: Tensor, labels: Tensor, *, ids: list[int]) -> Tensor:
        """Return adversarial images of 8 bits; an image's random numbers depend on its id alone."""
        adv_images = self.attack(self.model, images, labels, image_ids=ids)
        return NORMS[self.attack.norm](images, self.attack.eps).to_8_bits(adv_images)

    def _draw(self, image: Tensor, logits: Tensor) -> list[bytes]:
        """Return the label map, the overlay and, if they are to be saved, the logits [C, H, W] as files."""
        pred = logits.argmax(0).byte().cpu().numpy()  # [H, W]
        colours = overlay(to_uint8(image), self.classes.decode_target(pred), alpha=self.overlay_alpha)
        files = [_encode(pred, palette=self.classes.palette), _encode(colours)]
        if self.save_logits:
            np.savez(stream := io.BytesIO(), logits=logits.float().cpu().numpy(), classes=np.array(self.classes.names))
            files.append(stream.getvalue())
        return files


def plan_batches(sizes: dict[InputImage, Size], *, batch_size: int) -> list[list[InputImage]]:
    """Return batches of images of one size (width, height): `batch_size` of them, or fewer of large ones."""
    by_size, batches = {}, []
    for image, size in sizes.items():
        by_size.setdefault(size, []).append(image)
    for (width, height), group in by_size.items():
        count = max(min(batch_size, MOST_PIXELS // (width * height)), 1)
        batches += [group[start:start + count] for start in range(0, len(group), count)]
    return batches


def _stack(values) -> Tensor:
    return torch.stack([value.as_subclass(Tensor) for value in values])


def _encode(picture: np.ndarray, *, palette: np.ndarray | None = None) -> bytes:
    """Return a PNG: uint8 RGB [H, W, 3], or with a palette indices [H, W]."""
    image = Image.fromarray(picture) if palette is None else Image.fromarray(picture, mode="P")
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()
