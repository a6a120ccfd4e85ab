"""Every loss as its paper writes it, for autograd to differentiate."""
from functools import partial

import torch
from torch.nn import functional as F

WEIGHTS = (0.1, 0.4, 0.2, 0.05, 0.25)  # of 5 classes, none of them an exact float


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")


def cosine(logits, labels):
    onehot = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits)
    return F.cosine_similarity(logits.softmax(1), onehot, dim=1).detach()


def right(logits, labels):
    return (logits.argmax(1) == labels).to(logits)


def segpgd(logits, labels, t, steps, valid=None):
    share, hit = (t - 1) / (2 * steps), right(logits, labels)
    return ((1 - share) * hit + share * (1 - hit)) * cross_entropy(logits, labels)


def jensen_shannon(logits, labels):
    p = logits.softmax(1)
    onehot = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(p)
    middle = (p + onehot) / 2
    of_label = middle.gather(1, labels[:, None])
    return 0.5 * ((p * (p / middle).log()).sum(1) - of_label.log().squeeze(1))  # KL(p, m), and KL(e_y, m) = -log m_y


def tsallis(logits, labels, t, steps, valid=None):
    q = -2 + 3 * t / steps
    if t == steps:
        return cross_entropy(logits, labels)
    return (1 - logits.softmax(1).gather(1, labels[:, None]).squeeze(1) ** (1 - q)) / (1 - q)


def log_odds(logits, labels):
    p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return (p / (1 - p)).log()


def logodds(logits, labels, left):
    """T sigma(-m / T) of each pixel, T a constant: half the mean of |m| over the image's pixels that are left.

    Less T where m < 0: that has the same slope, and autograd doesn't lose it where sigma rounds to 1.
    """
    m = log_odds(logits, labels)
    mean = torch.stack([(one[there].sum() / max(1, there.sum())).abs()
                        for one, there in zip(m.detach(), left, strict=True)])
    temperature = (mean / 2).clamp_min(0.1).view(-1, 1, 1)
    return m.sign() * temperature * torch.sigmoid(-m.abs() / temperature)


def mce_even(logits, labels, valid):
    hit = right(logits, labels) * valid
    counts = torch.stack([sum((hit[b] * (labels[b] == k)).sum() * (labels[b] == k) for k in range(5))
                          for b in range(len(labels))])
    return hit / counts.clamp_min(1) * cross_entropy(logits, labels)


def blend(names, logits, labels, t, steps, valid):
    """The losses called `names`, each over half the l1 norm of its gradient in the image; a loss without one is 0."""
    total = 0
    for name in names:
        losses = PAPERS[name](logits, labels, t, steps, valid) * valid
        gradient, = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
        norm = gradient.abs().sum((1, 2, 3)).view(-1, 1, 1) / 2
        total = total + losses / torch.where(norm > 0, norm, torch.inf)
    return total


BLENDS = {"blend": ("logodds", "mce", "mce_even", "js", "cospgd"),
          "blend_late": ("logodds", "mce", "mce_even", "tsallis")}
PAPERS = {  # (logits, labels, t, steps, valid) -> loss of every pixel
    "ce": lambda u, y, t, n, v: cross_entropy(u, y),
    "segpgd": segpgd,
    "mce": lambda u, y, t, n, v: right(u, y) * cross_entropy(u, y),
    "mce_bal": lambda u, y, t, n, v: torch.tensor(WEIGHTS, dtype=u.dtype)[y] * right(u, y) * cross_entropy(u, y),
    "cospgd": lambda u, y, t, n, v: cosine(u, y) * cross_entropy(u, y),
    "mce_even": lambda u, y, t, n, v: mce_even(u, y, v),
    "logodds": lambda u, y, t, n, v: logodds(u, y, right(u, y).bool() & v),
    "js": lambda u, y, t, n, v: jensen_shannon(u, y),
    "tsallis": tsallis,
    **{name: partial(blend, members) for name, members in BLENDS.items()},
}
TO_TARGET = {  # (logits, labels, t, steps, valid) -> the loss to descend
    "ce": PAPERS["ce"],
    "segpgd": lambda u, y, t, n, v: cross_entropy(u, y) - segpgd(u, y, t, n),  # 1 - lambda on those not at the target
    "cospgd": lambda u, y, t, n, v: (1 - cosine(u, y)) * cross_entropy(u, y),
    "js": PAPERS["js"],
    "logodds": lambda u, y, t, n, v: logodds(u, y, ~right(u, y).bool() & v),
    "tsallis": tsallis,
}


def autograd(loss, logits, labels, t, steps):
    """Return the gradient of the sum over valid pixels."""
    logits, valid = logits.clone().requires_grad_(True), labels != 255
    losses = loss(logits, torch.where(valid, labels, 0), t, steps, valid)
    return torch.autograd.grad((losses * valid).sum(), logits)[0]
