"""Square Attack: random search without gradients, to check the gradient attacks against."""
import torch

from attacks.base import Attack
from attacks.norms import NORMS
from utils.wide import widest

# The paper's schedule: the square's share of the pixels at first, and the queries of 10,000 at which it halves.
FIRST_SHARE, HALVED_AT = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(Attack):
    """Random squares of +-eps, kept where they lower the margin summed over the image's correct pixels.

    Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via
    random search", ECCV 2020, algorithms 1 and 2 (linf). A pixel's margin is the logit of its label minus the largest
    other one. If an image loses more pixels to this attack than to a gradient attack, the model masks its gradients.
    Images [B, C, H, W] in [0, 1]. Cost: `steps` queries, each one forward pass.
    """

    name = "square"

    def __init__(self, *, eps: float, steps: int = 1000, norm: str = "linf", restarts: int = 1, seed: int = 1):
        if norm != "linf":
            raise ValueError(f"square supports the linf norm only, not {norm}: choose norm 'linf'")
        super().__init__(eps=eps, norm=norm, restarts=restarts, seed=seed)
        self.steps, self.random_start = int(steps), True
        if self.steps < 1:
            raise ValueError(f"steps {steps}: must be at least 1 query")

    def attempt(self, problem, initial):
        """Try stripes first, or the initial points if there are any; then squares."""
        ball = NORMS[self.norm](problem.images, self.eps)
        points, active = problem.images.clone(), initial.active.clone()
        margin = torch.full_like(active, torch.inf, dtype=widest(active.device))
        score = margin.clone()
        proposal = _draw_stripes(ball, initial.draw) if initial.points is None else initial.points
        for query in range(1, self.steps + 1):
            rows = active.nonzero().flatten()
            if not len(rows):
                break
            pixels = problem.predict(proposal, rows)
            lower = (found := _sum_margins(pixels)) < margin[rows]
            better = rows[lower]
            points[better], margin[better] = proposal[better], found[lower]
            score[better] = problem.score(pixels)[lower]
            active[better] = score[better] > 0
            proposal = _draw_squares(ball, points, initial.draw, share=_square_share(query / self.steps))
        return points, score

    def count_gradients(self):
        """Return 0: it makes queries only."""
        return 0

    def settings(self):
        """Return the settings of every attack, and the queries as steps; the loss is the margin."""
        return {**super().settings(), "attack_loss": "margin", "steps": self.steps}


def _sum_margins(pixels) -> torch.Tensor:
    """Return the sum over correct pixels of the label's logit minus the largest other one.  [b], float64."""
    others = pixels.log_p.scatter(1, pixels.index, -torch.inf).amax(1)
    return torch.where(pixels.correct, pixels.log_py - others, 0).flatten(1).sum(1, dtype=widest(others.device))


def _square_share(progress: float) -> float:
    """Return the share of the pixels that the square covers, after `progress` (0 to 1) of the queries."""
    return FIRST_SHARE / 2 ** sum(progress * 10_000 > query for query in HALVED_AT)


def _draw_stripes(ball, draw) -> torch.Tensor:
    """Draw vertical stripes one pixel wide, with a random sign for each stripe and channel.  [B, C, H, W]."""
    channels, width = ball.images.shape[1], ball.images.shape[3]
    return _select_corner(ball, draw(torch.rand, channels, 1, width))


def _draw_squares(ball, points, draw, *, share: float) -> torch.Tensor:
    """Return `points` with a random square of each image set to +eps or -eps, a random sign for each channel."""
    height, width = points.shape[2:]
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    places = torch.tensor([height - side + 1, width - side + 1], device=points.device)
    first = torch.minimum((draw(torch.rand, 2).to(widest(points.device)) * places).long(), places - 1)  # [B, 2]
    row = torch.arange(height, device=points.device) - first[:, :1]  # [B, H]
    column = torch.arange(width, device=points.device) - first[:, 1:]
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None]  # [B, H, W]
    return torch.where(inside[:, None], _select_corner(ball, draw(torch.rand, points.shape[1], 1, 1)), points)


def _select_corner(ball, numbers) -> torch.Tensor:
    """Return the corner of the ball at -eps where a uniform number is below 1/2, else at +eps; numbers broadcast."""
    return ball.project(ball.images + torch.where(numbers < 0.5, -2 * ball.eps, 2 * ball.eps).to(ball.images))
