"""Iterations that are skipped because something was not finite, and what a run says that diverged."""
from contextlib import suppress
from pathlib import Path

from utils import checkpoint
from utils.errors import UserError
from utils.logging import logger

MAX_SKIPPED = 10  # iterations in a row; then the run ends


class Skips:
    """Counts iterations that are skipped because something was not finite."""

    def __init__(self, count: int = 0, in_a_row: int = 0):
        self.count, self.in_a_row = count, in_a_row

    def add(self, itr: int, error: FloatingPointError):
        """Log a skipped iteration; raise FloatingPointError after MAX_SKIPPED in a row."""
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        logger.warning("Iteration %d skipped: %s (%d in a row, %d in total)", itr, error, self.in_a_row, self.count)
        if self.in_a_row == MAX_SKIPPED:
            raise FloatingPointError(f"{MAX_SKIPPED} iterations in a row were skipped, as {error}")


def describe_divergence(itr: int, problem: FloatingPointError, best: Path) -> str:
    """Return the line that ends a diverged run. best: the path of best_*, which has passed a validation."""
    good = "no checkpoint of this run has passed a validation: start again with a lower --lr"
    with suppress(UserError, LookupError):
        found = checkpoint.load(best)["cur_itrs"]
        good = (f"the last good checkpoint is {best}, of iteration {found}: start again with a lower --lr, or continue "
                "from it with --continue_training --ckpt and a lower --lr")
    return f"diverged at iteration {itr}: {problem}; {good} (docs/training.md#diverged)"
