"""A black-box control: random search, without gradients."""
import torch

from attacks.base import Attack
from attacks.norms import NORMS

# Share of the pixels in the square at the start, halved at these of 10,000 queries (the paper's schedule).
FIRST_SHARE, HALVED_AT = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(Attack):
    """Squares of random +-eps that are kept where they lower the summed margin of the pixels that are right.

    Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via
    random search", ECCV 2020, algorithms 1 and 2 (linf), with the loss summed over an image's correct pixels: their
    logit minus the largest other one. Should an image lose more to this than to a gradient attack, the gradients are
    masked. One query is one forward pass; `steps` queries. Images [B, C, H, W] in [0, 1].
    """

    name = "square"

    def __init__(self, *, eps: float, steps: int = 1000, norm: str = "linf", restarts: int = 1, seed: int = 1):
        if norm != "linf":
            raise ValueError(f"square searches the corners of the linf ball: it has no {norm} form here")
        super().__init__(eps=eps, norm=norm, restarts=restarts, seed=seed)
        self.steps, self.random_start = int(steps), True
        if self.steps < 1:
            raise ValueError(f"steps {steps}: at least one query")

    def attempt(self, problem, begin):
        """Stripes first (or what there is to begin with), then squares."""
        ball = NORMS[self.norm](problem.images, self.eps)
        points, active = problem.images.clone(), begin.active.clone()
        margin = torch.full_like(active, torch.inf, dtype=torch.float64)
        score = margin.clone()
        proposal = _stripes(ball, begin.draw) if begin.points is None else begin.points
        for query in range(1, self.steps + 1):
            rows = active.nonzero().flatten()
            if not len(rows):
                break
            pixels = problem.predict(proposal, rows)
            lower = (found := _margin(pixels)) < margin[rows]
            better = rows[lower]
            points[better], margin[better] = proposal[better], found[lower]
            score[better] = problem.score(pixels)[lower]
            active[better] = score[better] > 0
            proposal = _squares(ball, points, begin.draw, share=_share(query / self.steps))
        return points, score

    def settings(self):
        """As every attack's, and the queries; the loss is the margin."""
        return {**super().settings(), "attack_loss": "margin", "steps": self.steps}


def _margin(pixels) -> torch.Tensor:
    """Sum over correct pixels of the label's logit minus the largest other one.  [b], float64."""
    others = pixels.log_p.scatter(1, pixels.index, -torch.inf).amax(1)
    return torch.where(pixels.correct, pixels.log_py - others, 0).flatten(1).sum(1, dtype=torch.float64)


def _share(progress: float) -> float:
    """Share of the pixels that the square covers, after `progress` (0 to 1) of the queries."""
    return FIRST_SHARE / 2 ** sum(progress * 10_000 > query for query in HALVED_AT)


def _stripes(ball, draw) -> torch.Tensor:
    """Vertical stripes, one pixel wide, a random sign for each and every channel."""
    channels, width = ball.images.shape[1], ball.images.shape[3]
    return _corner(ball, draw(torch.rand, channels, 1, width))


def _squares(ball, points, draw, *, share: float) -> torch.Tensor:
    """`points` with a square at a random place set to +eps or -eps, a random sign for every channel."""
    height, width = points.shape[2:]
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    places = torch.tensor([height - side + 1, width - side + 1], device=points.device)
    first = torch.minimum((draw(torch.rand, 2).double() * places).long(), places - 1)  # [B, 2]
    row = torch.arange(height, device=points.device) - first[:, :1]  # [B, H]
    column = torch.arange(width, device=points.device) - first[:, 1:]
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None]  # [B, H, W]
    return torch.where(inside[:, None], _corner(ball, draw(torch.rand, points.shape[1], 1, 1)), points)


def _corner(ball, numbers) -> torch.Tensor:
    """The corner of the ball on the side that uniform numbers, broadcast over the images, say."""
    return ball.project(ball.images + torch.where(numbers < 0.5, -2 * ball.eps, 2 * ball.eps).to(ball.images))
