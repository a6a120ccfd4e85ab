"""Random noise of the size of an attack: the baseline that every attack must beat."""
from attacks.base import Attack
from attacks.ensemble import Ensemble
from attacks.norms import NORMS


class UniformNoise(Attack):
    """A random point of the ball, uniformly; never looks at the model, unless restarts choose the worst of several."""

    name, random_start = "uniform_noise", True

    def __init__(self, *, eps: float, norm: str = "linf", restarts: int = 1, seed: int = 1):
        super().__init__(eps=eps, norm=norm, restarts=restarts, seed=seed)

    def attempt(self, problem, begin):
        """Draw, whatever there is to begin with."""
        return self.point(NORMS[self.norm](problem.images, self.eps), begin.draw), None

    @staticmethod
    def point(ball, draw):
        """Where it goes."""
        return ball.random_point(draw)

    def settings(self):
        """As every attack's, without a loss."""
        return {**super().settings(), "attack_loss": None, "steps": 0}


class SignNoise(UniformNoise):
    """+eps or -eps on every value of the image (l2: scaled to length eps), at random: noise as large as FGSM's."""

    name = "sign_noise"

    @staticmethod
    def point(ball, draw):
        """A corner of the ball."""
        return ball.corner(draw)


class Noise(Ensemble):
    """Uniform and sign noise, the worse of both for each image."""

    name = "noise"

    def __init__(self, *, eps: float, norm: str = "linf", restarts: int = 1, seed: int = 1):
        super().__init__([kind(eps=eps, norm=norm, restarts=restarts, seed=seed) for kind in (UniformNoise, SignNoise)])
