"""SegPGD: PGD that attacks the correct pixels first and gradually includes the wrong ones."""
from attacks.pgd import PGD


class SegPGD(PGD):
    """PGD on cross-entropy, weighted 1 - lambda on correct and lambda on wrong pixels; lambda rises from 0 towards 1/2.

    Gu, Zhao, Tresp and Torr, "SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
    Segmentation Robustness", ECCV 2022: lambda = (t - 1) / (2 steps) at step t.
    """

    name, default_loss = "segpgd", "segpgd"
