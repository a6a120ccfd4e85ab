"""PGD that turns from correct pixels to all of them as it goes."""
from attacks.pgd import PGD


class SegPGD(PGD):
    """PGD on cross-entropy with weight 1 - lambda on correct and lambda on wrong pixels, lambda from 0 to nearly 1/2.

    Gu, Zhao, Tresp and Torr, "SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
    Segmentation Robustness", ECCV 2022: lambda = (t - 1) / (2 steps) at step t.
    """

    name, default_loss = "segpgd", "segpgd"
