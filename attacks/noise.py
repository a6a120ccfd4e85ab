"""Random noise of the size of an attack: the baseline that every attack must beat."""
from attacks.base import Attack
from attacks.ensemble import Ensemble
from attacks.norms import NORMS


class UniformNoise(Attack):
    """A uniformly random point of the ball; runs the model only to choose between restarts.

    Images [B, C, H, W] in [0, 1]; eps in the same units.
    """

    name, random_start = "uniform_noise", True

    def __init__(self, *, eps: float, norm: str = "linf", restarts: int = 1, seed: int = 1):
        super().__init__(eps=eps, norm=norm, restarts=restarts, seed=seed)

    def attempt(self, problem, initial):
        """Draw a point; initial points are not used."""
        return self.draw_point(NORMS[self.norm](problem.images, self.eps), initial.draw), None

    @staticmethod
    def draw_point(ball, draw):
        """Draw the adversarial images [B, C, H, W]."""
        return ball.draw_point(draw)

    def settings(self):
        """Return the settings of every attack, without a loss."""
        return {**super().settings(), "attack_loss": None, "steps": 0}


class SignNoise(UniformNoise):
    """+eps or -eps on every value of the image (l2: scaled to length eps), at random: noise as large as FGSM's."""

    name = "sign_noise"

    @staticmethod
    def draw_point(ball, draw):
        """Draw a corner of the ball."""
        return ball.draw_corner(draw)


class Noise(Ensemble):
    """The worse of uniform and sign noise for each image."""

    name = "noise"

    def __init__(self, *, eps: float, norm: str = "linf", restarts: int = 1, seed: int = 1):
        super().__init__([kind(eps=eps, norm=norm, restarts=restarts, seed=seed) for kind in (UniformNoise, SignNoise)])
