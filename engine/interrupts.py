"""A Ctrl-C that comes at a good moment: after an update is whole, and at the same one in all processes."""
import signal
from contextlib import contextmanager

from utils import distributed


class Interrupted(Exception):
    """A Ctrl-C, where it is told to the other processes."""


class Interrupts:
    """Holds a Ctrl-C back: no weights at w + e, no half-made step is ever saved.

    In a single process it comes through between updates, as always. Of several processes each would stop elsewhere and
    leave the others waiting, so there it only comes with check().
    """

    def __init__(self):
        self.pressed, self.busy = False, False

    def __enter__(self):
        try:
            self._before = signal.signal(signal.SIGINT, self._press)
        except ValueError:  # not the main thread, where no Ctrl-C arrives either
            self._before = None
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self):
        """Raise Interrupted if there was one."""
        if self.pressed:
            raise Interrupted

    @contextmanager
    def held_back(self):
        """Until the end of the block."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
        if distributed.world_size() == 1 and self.pressed:
            raise KeyboardInterrupt

    def _press(self, *_):
        self.pressed = True
        if distributed.world_size() == 1 and not self.busy:
            raise KeyboardInterrupt
