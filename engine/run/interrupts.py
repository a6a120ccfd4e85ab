"""SIGINT (Ctrl-C) and SIGTERM (clusters, spot machines): the first ends a run in good order, the second at once."""
import os
import signal
import socket
import threading
import time
from contextlib import suppress

from utils import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which the same signal may come twice without being meant: `timeout` sends it to the process and to its
# group, torchrun passes on what the terminal has sent to all processes already.
ECHO, ECHO_OF_TORCHRUN = 0.3, 3.0


class Stopped(Exception):
    """A signal that a training has taken notice of, where all is saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Terminated(KeyboardInterrupt):
    """A SIGTERM outside of training: what handles a Ctrl-C handles it too."""


class Interrupts:
    """While it is entered, the first signal raises KeyboardInterrupt or Terminated; the second ends the process.

    `held`: the first raises nothing, but check() does from then on. So no weights at w + e and no half-made step are
    ever saved, and of several processes none leaves the others waiting. A thread listens, because handlers have to
    wait for the end of a convolution, and a backward pass is a single call.
    """

    def __init__(self, *, held: bool = False):
        self.held, self.signum, self._first = held, None, None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is not threading.main_thread():  # where no signal arrives
            return self
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        if self.held and hasattr(signal, "SIGCHLD"):
            # torch's handler raises inside a step where a loader's process has died; the loader says so between two.
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._fd_before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if not self._before:
            return
        signal.set_wakeup_fd(self._fd_before)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._mouth.shutdown(socket.SHUT_RDWR)  # a forked process may have it too
        self._thread.join()
        self._mouth.close()
        self._ear.close()

    def check(self):
        """Raise Stopped if there was a signal."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def _handle(self, signum, _):
        if not self.held:
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated
        self.signum = self.signum or signum  # the thread may not have had its turn yet

    def _listen(self):
        while heard := self._ear.recv(1):
            if heard[0] in SIGNALS:
                self._notice(heard[0])

    def _notice(self, signum: int):
        if self._first is None:
            self.signum, self._first = self.signum or signum, time.monotonic()
            if self.held and distributed.is_main():  # not the log, which the training may be writing
                with suppress(OSError):  # a closed terminal
                    os.write(2, f"\n{signal.Signals(signum).name}: the run stops when its iteration is whole; "
                                "once more ends it at once\n".encode())
        elif time.monotonic() - self._first > (ECHO_OF_TORCHRUN if distributed.launched() else ECHO):
            os._exit(128 + signum)  # no waiting, for nobody: checkpoints and records are whole at any moment
