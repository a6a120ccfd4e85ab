"""A data set without files: five kinds of shapes on a textured background, drawn from (seed, split, index)."""
import numpy as np
import torch
from torchvision import tv_tensors

from .base import SegmentationDataset, make_palette
from .transforms import IGNORE

SIZE = 96
LENGTHS = {"train": 256, "val": 32}


def disc(u, v):
    """Return the signed distance from the unit disc."""
    return np.hypot(u, v) - 1


def square(u, v):
    """Return the signed distance from a square of half side 0.85."""
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def triangle(u, v):
    """Return the signed distance from an equilateral triangle with its corners at radius 1.2."""
    return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - 0.6


def ring(u, v):
    """Return the signed distance from a ring between the radii 0.5 and 1."""
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


def cross(u, v):
    """Return the signed distance from a cross of two bars 2.1 long and 0.7 wide."""
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 1.05, np.minimum(a, b) - 0.35)


# Label -> function of coordinates u, v [H, W] that gives the signed distance [H, W] in radii, negative inside
SHAPES = {1: disc, 2: square, 3: triangle, 4: ring, 5: cross}


class Synthetic(SegmentationDataset):
    """Overlapping shapes, some faint, some outlined with 255; colour only hints at the class. 6 classes, 96x96.

    Image i depends only on (seed, split, i), not on the order of access, the process or global generators.
    """

    class_names = ["background", *(shape.__name__ for shape in SHAPES.values())]
    num_classes = len(class_names)
    palette = make_palette([(0, 0, 0), (214, 69, 65), (65, 131, 215), (245, 171, 53), (38, 166, 91), (155, 89, 182)],
                           void=(224, 224, 192))
    native_same_size = True

    def __init__(self, split, *, crop_size=None, seed=1, **_):
        super().__init__(split, crop_size=crop_size)
        self.split = split
        self.seed = seed
        self.origin = f"the synthetic {split} set of seed {seed}"

    def __len__(self) -> int:
        return LENGTHS[self.split]

    def name(self, i: int) -> str:
        """Return the split and the index."""
        return f"{self.split}_{range(len(self))[i]:04d}"

    def read_pair(self, i: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return pair i, drawn now: image uint8 [3, 96, 96], label uint8 [96, 96]."""
        i = range(len(self))[i]  # IndexError past the end ends a `for` over the data set
        rng = np.random.default_rng([self.seed, list(LENGTHS).index(self.split), i])
        image, label = draw(rng, self.palette / 255)
        return tv_tensors.Image(torch.from_numpy(image)), tv_tensors.Mask(torch.from_numpy(label))


def draw(rng: np.random.Generator, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image uint8 [3, H, W] of two to four overlapping shapes, and its label uint8 [H, W].

    `colours` [>= 6, 3] in [0, 1] are the typical colours of the classes.
    """
    image = make_texture(rng, rng.uniform(0.35, 0.65, 3))  # [3, H, W]
    label = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for _ in range(rng.integers(2, 5)):
        paint_shape(rng, image, label, colours)
    image += rng.normal(0, rng.uniform(0.02, 0.06), image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), label


def paint_shape(rng: np.random.Generator, image: np.ndarray, label: np.ndarray, colours: np.ndarray):
    """Paint one shape of a random class into image [3, H, W] and label [H, W], in place."""
    kind = int(rng.integers(1, len(SHAPES) + 1))
    radius = rng.uniform(14, 26)
    distance = SHAPES[kind](*make_local_grid(rng, radius)) * radius  # [H, W], in pixels

    colour = colours[kind] + rng.uniform(0, 0.5) * (rng.uniform(0, 1, 3) - colours[kind])
    opacity = rng.uniform(0.5, 1) * (0.5 - distance).clip(0, 1)  # antialiased outline
    image += opacity * (make_texture(rng, colour) - image)

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


def make_texture(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Return an image [3, H, W] of one colour [3] plus three coloured gratings."""
    waves = rng.uniform(-0.5, 0.5, (2, 3, 1))                                   # radians per pixel, in y and x
    steps = np.arange(SIZE)
    rows, columns = np.exp(1j * waves * steps)                                  # 2 x [3, SIZE]
    gratings = (rows[:, :, None] * columns[:, None, :]).real                    # cos(wy y + wx x): [3, H, W]
    mix = rng.normal(0, 0.03, (3, 3))                                           # the colour of each grating
    return colour[:, None, None] + np.tensordot(mix, gratings, axes=1)
