"""A data set without files: dotted shapes of four kinds on grey ground, drawn from (seed, split, index).

Two cues tell the class. A shape has bold dots of its class's colour, with the opposite colour between them, so that its
average is almost grey. What is left of the colour in the average, the cast, is the same in all shapes of a class but
faint: 7 of 255 levels away from grey, and 14 away from another class's in two channels. A network that is trained as
usual relies on the cast, and a perturbation of that size turns it into another class's. A network that is trained
against larger perturbations has to rely on the dots.
"""
import numpy as np
import torch
from torchvision import tv_tensors

from .base import SegmentationDataset
from .classes import make_palette
from .transforms import IGNORE

SIZE = 64
CAST, DOTS = 0.07, 0.42  # the two cues' sizes, as shares of the distance between the class's colour and grey
SPACING = 9.0  # pixels between dots
LENGTHS = {"train": 256, "val": 32}
VERSION = 4  # raise it when other images are drawn: records of earlier ones are then left alone


def disc(u, v):
    """Unit disc."""
    return np.hypot(u, v) - 1


def square(u, v):
    """Square of half side 0.85."""
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def triangle(u, v):
    """Equilateral triangle with its corners at radius 1.2."""
    return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - 0.6


def ring(u, v):
    """Ring between the radii 0.5 and 1."""
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


# Label -> signed distance from the outline in units of the radius (negative inside), for coordinates [H, W]
SHAPES = {1: disc, 2: square, 3: triangle, 4: ring}


class Synthetic(SegmentationDataset):
    """Dotted shapes that overlap, some outlined with 255; 5 classes, 64x64.

    Image i depends only on (seed, split, i), not on the order of access, the process or global generators.
    """

    class_names = ["background", *(shape.__name__ for shape in SHAPES.values())]
    num_classes = len(class_names)
    # Every channel is 25 or 230, and any two shapes differ in exactly two channels: all pairs are equally far apart.
    palette = make_palette([(0, 0, 0), (230, 25, 25), (25, 25, 230), (25, 230, 25), (230, 230, 230)],
                           void=(240, 200, 60))
    native_same_size = True

    def __init__(self, split, *, crop_size=None, seed=1, **_):
        super().__init__(split, crop_size=crop_size)
        self.split = split
        self.seed = seed
        self.origin = f"the synthetic {split} set of seed {seed}"

    def digest(self) -> str:
        """Return what tells these images from others: the seed, and the version of what is drawn."""
        return f"{self.origin}, version {VERSION}"

    def __len__(self) -> int:
        return LENGTHS[self.split]

    def name(self, i: int) -> str:
        """Return the split and the index."""
        return f"{self.split}_{range(len(self))[i]:04d}"

    def read_pair(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return pair i, drawn now: image uint8 [3, 64, 64], label uint8 [64, 64]."""
        i = range(len(self))[i]  # IndexError past the end ends a `for` over the data set
        rng = np.random.default_rng([self.seed, list(LENGTHS).index(self.split), i])
        image, label = draw(rng, self.palette / 255)
        return tv_tensors.Image(torch.from_numpy(image)), tv_tensors.Mask(torch.from_numpy(label))


def draw(rng: np.random.Generator, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image uint8 [3, H, W] of two or three overlapping shapes on grey, and its label uint8 [H, W].

    `colours` [>= 5, 3] in [0, 1] are the typical colours of the classes; the first one is not used.
    """
    ground = rng.uniform(0.49, 0.51) + rng.uniform(-0.005, 0.005, 3)
    image = np.broadcast_to(ground[:, None, None], (3, SIZE, SIZE)).copy()
    label = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for _ in range(rng.integers(2, 4)):
        paint_shape(rng, image, label, colours)
    image += rng.normal(0, 0.002, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), label


def paint_shape(rng: np.random.Generator, image: np.ndarray, label: np.ndarray, colours: np.ndarray):
    """Paint one shape of a random class into image [3, H, W] and label [H, W], in place."""
    kind = int(rng.integers(1, len(SHAPES) + 1))
    radius = rng.uniform(12, 20)
    distance = SHAPES[kind](*make_local_grid(rng, radius)) * radius  # [H, W], in pixels

    opacity = (0.5 - distance).clip(0, 1)  # antialiased outline
    image += opacity * (make_surface(rng, colours[kind]) - image)

    label[distance < 0] = kind
    if rng.random() < 0.4:
        label[np.abs(distance) < 1] = IGNORE


def make_local_grid(rng: np.random.Generator, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the image's coordinates u, v [H, W], in radii, in a randomly placed and rotated frame."""
    x, y = rng.uniform(0.1 * SIZE, 0.9 * SIZE, 2)
    angle = rng.uniform(0, 2 * np.pi)
    dx = (np.arange(SIZE) - x)[None, :] / radius
    dy = (np.arange(SIZE) - y)[:, None] / radius
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def make_surface(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Return a plane [3, H, W] of bold dots of one colour [3], whose average is grey with a faint cast of it."""
    u, v = make_local_grid(rng, SPACING / (2 * np.pi))
    dots = (1 + np.cos(u)) * (1 + np.cos(v)) - 1  # 3 in the middle of a dot, -1 between dots, 0 on average
    strength = CAST + DOTS / 2 * dots  # [H, W]
    return 0.5 + (colour - 0.5)[:, None, None] * strength + rng.uniform(-0.005, 0.005, (3, 1, 1))
