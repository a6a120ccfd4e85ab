"""PNGs of results: image, target, prediction, overlay and perturbation."""
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.images import choose_evenly, overlay, scale_perturbation, to_uint8
from utils.text import is_file_name


class Pictures:
    """Pictures of results: <folder>/<result>/<name>_{image,target,pred,overlay,perturbation}.png.

    Drawn for `count` of `names`, evenly spaced; if `needed`, recorded images without pictures are attacked again. image
    is what was scored; perturbation is its difference from the clean image, scaled to the full range of grey.
    """

    def __init__(self, folder: Path, dataset, names: list[str], *, count: int, needed: bool = True):
        self.folder, self.dataset, self.needed = Path(folder), dataset, needed
        self.names = {names[k] for k in choose_evenly(len(names), count)}
        for name in self.names:
            if not is_file_name(name):
                raise UserError(f"image name {name!r} can't be a picture's file name: rename it, shorter and without /")

    def lacks(self, result: str, name: str) -> bool:
        """Return whether this image must be attacked for its pictures."""
        return self.needed and name in self.names and not (self.folder / result / f"{name}_image.png").is_file()

    def draw(self, scored) -> dict[str, dict[str, np.ndarray]]:
        """Return the chosen pictures of a batch (evaluate.Scored): {image name: {kind: uint8 [H, W, 3]}}."""
        drawn = {}
        for k, index in enumerate(scored.indices):
            name = self.dataset.name(index)
            if name not in self.names:
                continue
            image, pred = to_uint8(scored.images[k]), self.dataset.decode_target(scored.preds[k].cpu().numpy())
            delta = scored.images[k] - scored.clean[k]
            drawn[name] = {"target": self.dataset.decode_target(scored.labels[k].cpu().numpy()), "pred": pred,
                           "overlay": overlay(image, pred), "perturbation": to_uint8(scale_perturbation(delta)),
                           "image": image}  # written last: if it exists, all do
        return drawn

    def write(self, result: str, drawn: dict[str, dict[str, np.ndarray]]):
        """Write what draw() returned."""
        for name, pictures in drawn.items():
            (self.folder / result).mkdir(parents=True, exist_ok=True)
            for kind, picture in pictures.items():
                Image.fromarray(picture).save(self.folder / result / f"{name}_{kind}.png")
