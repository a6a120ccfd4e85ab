"""Common corruptions: noise, blur, weather and compression, which no adversary chooses."""
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from attacks.base import Attack, Outcome
from utils.errors import UserError
from utils.optional import import_optional
from utils.seed import make_generator

CORRUPTIONS = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
               "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
               "jpeg_compression")
SEVERITIES = (1, 2, 3, 4, 5)
NORM = "severity"  # of the records: their eps is the severity
SMALLEST_SIDE = 32
_SEEDED = ("impulse_noise", "glass_blur")  # take a seed; the others draw from NumPy's global generator


class Corruption(Attack):
    """One of the fifteen corruptions of ImageNet-C at a severity from 1 to 5, of any image of at least 32x32.

    Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR
    2019, computed by the package imagecorruptions-imaug from the images in 8 bits, as there. An image's random numbers
    depend only on (seed, its id, corruption, severity); NumPy's global ones are left as they were. The network and the
    labels are not used.
    """

    random_start = True

    def __init__(self, name: str, *, severity: int, seed: int = 1):
        super().__init__(eps=0.0, seed=seed)
        if name not in CORRUPTIONS or severity not in SEVERITIES:
            raise ValueError(f"unknown corruption {name!r} of severity {severity}: choose from "
                             f"{', '.join(CORRUPTIONS)}, and 1 to 5")
        self.name, self.severity = name, severity

    def run(self, model, images: Tensor, labels: Tensor, *, image_ids=None, start=None) -> Outcome:  # noqa: ARG002
        """Return the corrupted images, in 8 bits; no passes."""
        if image_ids is None:
            image_ids = torch.randint(2**31, (len(images),)).tolist()
        corrupted = torch.empty_like(images)
        for one, image, number in zip(corrupted, images, image_ids, strict=True):
            one.copy_(self._corrupt(image, number))
        none = torch.zeros(len(images), dtype=torch.long)
        return Outcome(corrupted, none, none)

    def _corrupt(self, image: Tensor, number: int) -> Tensor:
        if min(image.shape[1:]) < SMALLEST_SIDE:
            raise UserError(f"an image of {image.shape[2]}x{image.shape[1]} can't be corrupted: --corrupt takes at "
                            f"least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels")
        draw = make_generator(self.seed, number, self.name, self.severity)
        seed = int(torch.randint(2**31, (), generator=draw))
        pixels = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        package = load_package()
        with _seeded_numpy(seed):
            found = package.corrupt(pixels, severity=self.severity, corruption_name=self.name,
                                    **({"seed": seed} if self.name in _SEEDED else {}))
        return torch.from_numpy(np.array(found)).permute(2, 0, 1).to(image).div(255)

    def settings(self):
        """Return what determines the result; as eps the severity."""
        return {"attack": self.name, "attack_loss": None, "norm": NORM, "eps": float(self.severity), "steps": 0,
                "restarts": 1, "target": None, "seed": self.seed}


def load_package():
    """Return the package that corrupts images; UserError, with the remedy, if it or what it needs can't be loaded."""
    try:
        return import_optional("imagecorruptions")
    except ImportError as error:  # of OpenCV, where the libraries of a display are missing
        raise UserError(f"--corrupt: {error}: run `make extras`") from None


@contextmanager
def _seeded_numpy(seed: int):
    """Seed NumPy's global generator for the block, and restore its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
