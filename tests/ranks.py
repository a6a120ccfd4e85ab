"""A function in several processes at once, as torchrun would start them: gloo, CPU, one thread each."""
import os
import pickle
import socket
import time
import traceback
from multiprocessing import set_start_method
from multiprocessing.connection import wait

import torch

from tests.processes import server
from utils import distributed

GRACE = 10  # seconds that the other ranks have to end by themselves after one has failed


def run(function, *args, n: int = 2, timeout: float = 600) -> list:
    """The results of function(*args) on each of `n` ranks; the function is importable, as those of tests/ranked are.

    AssertionError with the tracebacks where a rank raises, or is not done after `timeout` seconds.
    """
    port, call = free_port(), pickle.dumps((function, args))
    ranks = [_Rank(number, n, port, call) for number in range(n)]
    deadline = time.monotonic() + timeout
    try:
        while (busy := [rank.pipe for rank in ranks if rank.outcome is None]) and time.monotonic() < deadline:
            ready = wait(busy, timeout=min(1, max(0, deadline - time.monotonic())))
            for rank in ranks:
                if rank.pipe in ready and rank.read() == "failed":
                    deadline = min(deadline, time.monotonic() + GRACE)
    finally:
        for rank in ranks:
            rank.end()
    wrong = [f"rank {rank.number} of {n}:\n{rank.value}" for rank in ranks if rank.outcome != "done"]
    assert not wrong, "\n".join(wrong)
    return [rank.value for rank in ranks]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Rank:
    """One process, and what came of it: `outcome` None, "done" or "failed", `value` its result or its traceback."""

    def __init__(self, number: int, n: int, port: int, call: bytes):
        self.number, self.outcome, self.value = number, None, "not done in time"
        context = server()
        self.pipe, other = context.Pipe(duplex=False)
        environment = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        self.process = context.Process(target=_child, args=(other, environment, call), daemon=True)
        self.process.start()
        other.close()  # or the end of the process would not be seen

    def read(self) -> str:
        try:
            self.outcome, self.value = pickle.loads(self.pipe.recv_bytes())
        except EOFError:
            self.process.join()
            self.outcome, self.value = "failed", f"ended with exit code {self.process.exitcode}"
        return self.outcome

    def end(self):
        self.process.join(GRACE if self.outcome == "done" else 0)
        self.process.kill()
        self.process.join()


def _child(pipe, environment: dict, call: bytes):
    set_start_method(None, force=True)  # of what it starts itself: the default
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads(call)
        distributed.join_group(torch.device("cpu"))
        answer = pickle.dumps(("done", function(*args)))
    except BaseException:
        answer = pickle.dumps(("failed", traceback.format_exc()))
    pipe.send_bytes(answer)
    pipe.close()
    distributed.leave_group()
