"""Projected gradient descent (ascent on the loss)."""
from attacks.base import Attack


class PGD(Attack):
    """`steps` projected steps from a random point of the ball; the last iterate is returned.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1. Images
    [B, C, H, W] in [0, 1]; eps and step_size in the same units, step_size eps / 4 where none is given.

        PGD(eps=4 / 255, steps=10)(model, images, labels)
    """

    def __init__(self, *, eps: float, step_size: float | None = None, steps: int = 10, norm: str = "linf",
                 random_start: bool = True, seed: int = 1):
        super().__init__(eps=eps, norm=norm, step_size=eps / 4 if step_size is None else step_size, steps=steps,
                         random_start=random_start, seed=seed)
