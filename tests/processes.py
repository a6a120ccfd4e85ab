"""Real processes that run main.py, started in 0.1 s instead of 4: forks of a server that has imported the program.

What they do from then on, what they are sent and how they end is theirs alone: each has a process group, an
environment, pipes and an exit code of its own, as one that a shell starts.
"""
import functools
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path

from tests import thin

LINGER = 120  # seconds that what a process has started may live on without it
ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def server():
    """The multiprocessing context of the server; started once, with one thread for arithmetic."""
    found = get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), before.get("PYTHONPATH", "")]), OMP_NUM_THREADS="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return found


class Process:
    """A process of the server that runs main.py, with the methods of subprocess.Popen that torchrun and tests use.

    how: what _run_main() takes.
    """

    def __init__(self, context, flags, out: Connection, err: Connection, environment: dict, ranks: int | None = None,
                 restarts: int = 0, **how):
        here, there = context.Pipe(duplex=False)
        what = there, flags, out, err, environment, ranks, restarts, how
        self._process = context.Process(target=_become, args=what)
        self._process.start()
        there.close()
        here.recv_bytes()  # it has a group of its own, to which signals go
        here.close()
        self.pid, self.args = self._process.pid, ["main.py", *flags]

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("main.py", timeout)
        return self.returncode

    def send_signal(self, signum: int):
        if self.poll() is None:
            os.kill(self.pid, signum)

    def end(self):
        """Kill it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


class Started(Process):
    """A Process whose output and errors are read here.

    ranks: so many of them, started by torchrun's own agent, to which signals go; restarts: how often it may start them
    again. environment: variables besides those
    of this process. real: not with the thin network. first: what each process calls before all.
    """

    def __init__(self, *flags: str, ranks: int | None = None, restarts: int = 0, environment: dict | None = None,
                 real: bool = False, first: Callable | None = None):
        (out, out_there), (err, err_there) = (server().Pipe(duplex=False) for _ in range(2))
        super().__init__(server(), flags, out_there, err_there,
                         {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, ranks, restarts, real=real,
                         first=first)
        self.stdout, self.stderr = (os.fdopen(os.dup(pipe.fileno()), encoding="utf-8") for pipe in (out, err))
        for pipe in (out, out_there, err, err_there):
            pipe.close()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of its output and its errors, once it and all that it started have ended."""
        with ThreadPoolExecutor(2) as readers:
            read = [readers.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
                return tuple(each.result(LINGER) for each in read)
            except (subprocess.TimeoutExpired, TimeoutError):
                super().end()  # or the readers wait for ever
                raise

    def end(self):
        super().end()
        self.stdout.close()
        self.stderr.close()


def _become(ready: Connection, flags, out, err, environment: dict, ranks: int | None, restarts: int, how: dict):
    """What a process of the server does: as `python main.py flags` does in a shell of its own."""
    set_start_method(None, force=True)  # of what it starts itself: the default
    os.setsid()
    ready.send_bytes(b"ready")
    ready.close()
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(ROOT)
    if ranks is not None:
        _run_torchrun(flags, ranks, restarts, how)
    else:
        _run_main(flags, **how)


def _run_main(flags, *, real: bool, first: Callable | None):
    if first is not None:
        first()
    sys.argv = ["main.py", *flags]
    with nullcontext() if real else thin.installed():
        runpy.run_path("main.py", run_name="__main__")


def _run_torchrun(flags, ranks: int, restarts: int, how: dict):
    """torch.distributed.run, of whose agent only the start of a process is another: by the same server."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    context = get_context("forkserver")
    forkserver._forkserver.ensure_running = lambda: None  # its address came with the fork

    def start(_, args, env):
        out, err = (Connection(os.dup(number), readable=False) for number in (1, 2))
        return Process(context, flags, out, err, env, **how)

    SubprocessHandler._popen = start
    run.main(["--standalone", f"--nproc_per_node={ranks}", f"--max-restarts={restarts}", "main.py", *flags])
