"""PGD with pixels weighted by how much their prediction looks like the label."""
from attacks.pgd import PGD


class CosPGD(PGD):
    """PGD on cross-entropy weighted by cos(softmax(logits), onehot(label)); towards a target by 1 minus that.

    Agnihotri, Jung and Keuper, "CosPGD: an efficient white-box adversarial attack for pixel-wise prediction tasks",
    ICML 2024, with the softmax of the paper (SEA's comparison used a sigmoid, which is weaker).
    """

    name, default_loss = "cospgd", "cospgd"
