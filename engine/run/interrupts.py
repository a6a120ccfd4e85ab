"""SIGINT (Ctrl-C) and SIGTERM (sent by clusters): the first stops a run after its iteration, the second at once."""
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

from utils.launch import launched
from utils.ranks import is_main

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A second signal within these seconds is a duplicate: `timeout` signals the process and its group, and torchrun
# forwards signals that the terminal has already sent to all processes.
REPEAT_SECONDS, TORCHRUN_REPEAT_SECONDS = 0.3, 3.0


class Stopped(Exception):
    """A signal stopped a training after its state was saved."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Terminated(KeyboardInterrupt):
    """A SIGTERM outside of training; handlers of Ctrl-C catch it too."""


@contextmanager
def held_signals():
    """Hold back signals in this block: an exception within an import may be swallowed, or leave half a module."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []
    before = {signum: signal.signal(signum, lambda number, _: received.append(number)) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else Terminated


class Interrupts:
    """A context in which the first signal raises KeyboardInterrupt or Terminated, and the second ends the process.

    held: the first signal raises nothing, but check() raises from then on. So weights at w + e or within a step are
    never saved, and no process leaves the others waiting. A thread receives the second signal, because Python's own
    handlers run only after a backward pass.
    """

    def __init__(self, *, held: bool = False):
        self.held, self.signum, self._first = held, None, None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
            return self
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._before = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        if self.held and hasattr(signal, "SIGCHLD"):
            # When a loader's worker dies, torch's handler raises within a step; the loader reports it between steps.
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._fd_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        if not self._before:
            return
        signal.set_wakeup_fd(self._fd_before)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._sender.shutdown(socket.SHUT_RDWR)  # a forked process may keep it open
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def check(self):
        """Raise Stopped if a signal was received."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def _handle(self, signum, _):
        self.signum = self.signum or signum  # the thread may not have run yet
        if not self.held:
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated

    def _listen(self):
        while heard := self._receiver.recv(1):
            if heard[0] in SIGNALS:
                self._notice(heard[0])

    def _notice(self, signum: int):
        if self._first is None:
            self.signum, self._first = self.signum or signum, time.monotonic()
            if self.held and is_main():  # not to the log: the training may be writing to it
                with suppress(OSError):  # a closed terminal
                    os.write(2, f"\n{signal.Signals(signum).name}: stopping after this iteration; "
                                "press again to quit now\n".encode())
        elif time.monotonic() - self._first > (TORCHRUN_REPEAT_SECONDS if launched() else REPEAT_SECONDS):
            os._exit(128 + signum)  # at once is safe: checkpoints and records are always complete on disk
