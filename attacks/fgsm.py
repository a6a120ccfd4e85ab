"""The fast gradient sign method."""
from attacks.base import Attack


class FGSM(Attack):
    """One step of the whole eps along the gradient's sign (l2: its direction), without a random start.

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4:
    x + eps * sign(grad_x L). Images [B, C, H, W] in [0, 1]; eps in the same units.

        FGSM(eps=4 / 255)(model, images, labels)
    """

    def __init__(self, *, eps: float, norm: str = "linf"):
        super().__init__(eps=eps, norm=norm, step_size=eps, steps=1, random_start=False)
