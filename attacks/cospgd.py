"""CosPGD: PGD that weights each pixel by how close its prediction is to the label."""
from attacks.pgd import PGD


class CosPGD(PGD):
    """PGD on cross-entropy weighted by cos(softmax(logits), onehot(label)); with a target, by 1 minus that cosine.

    Agnihotri, Jung and Keuper, "CosPGD: an efficient white-box adversarial attack for pixel-wise prediction tasks",
    ICML 2024, with the softmax of the paper (SEA's comparison used a sigmoid, which is weaker).
    """

    name, default_loss = "cospgd", "cospgd"
