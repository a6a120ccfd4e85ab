"""The fast gradient sign method."""
from attacks.pgd import PGD


class FGSM(PGD):
    """One step of size eps along the gradient's sign (l2: along the gradient), without a random start.

    Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4:
    x + eps * sign(grad_x L). Images [B, C, H, W] in [0, 1]; eps in the same units. The second and later restarts
    start at random points.

        FGSM(eps=4 / 255)(model, images, labels)
    """

    name = "fgsm"

    def __init__(self, *, eps: float, norm: str = "linf", attack_loss: str | None = None, restarts: int = 1,
                 target=None, class_weights=None, seed: int = 1):
        super().__init__(eps=eps, step_size=eps, steps=1, norm=norm, random_start=False, attack_loss=attack_loss,
                         restarts=restarts, target=target, class_weights=class_weights, seed=seed)
