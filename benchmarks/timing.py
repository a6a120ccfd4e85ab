"""Time things in turn, A B C A B C ..., each in a process of its own, so that drift and memory affect all alike."""
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy
import PIL
import torch
import torchvision

from utils.device import peak_memory
from utils.memory import keep_freed_memory

PACKAGES = torch, torchvision, numpy, PIL


@dataclass
class Measured:
    """What one subject took in each round: seconds, CPU seconds of all its threads; the GiB that it held at most."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    gib: float = 0.0

    def times(self, factor: float) -> "Measured":
        """Return what `factor` such rounds take."""
        return Measured(*([factor * each for each in every] for every in (self.seconds, self.cpu_seconds)), self.gib)


@dataclass
class Result:
    """A ratio of two subjects, over rounds; better: "higher" or "lower". It is a line of the JSON file."""

    benchmark: str
    case: str
    against: str
    better: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    seconds: float = 0.0  # the case's median, of one step or image
    other_seconds: float = 0.0

    @property
    def line(self) -> str:
        """Return the row of the table."""
        seconds = f"{1e3 * self.seconds:9.1f} ms {1e3 * self.other_seconds:9.1f} ms" if self.seconds else " " * 25
        return (f"{self.benchmark:<13} {self.case:<24} {self.median:6.2f} {self.unit} {self.against} "
                f"({self.low:.2f} to {self.high:.2f}, {self.better} is better) {seconds}")


def measure_in_turn(makers: dict[str, Callable], *, rounds: int, warm_up: int = 1) -> dict[str, Measured]:
    """Return what each subject took in `rounds` rounds, after `warm_up` uncounted ones.

    makers: {name: a function without arguments that prepares the subject and returns the function to time}; they are
    pickled and called in new processes. Those whose name begins with "plain" leave freed memory to the system, as torch
    does; the others keep it, as main.py does.
    """
    with ExitStack() as stack:
        subjects = {name: stack.enter_context(_Subject(name, maker)) for name, maker in makers.items()}
        found = {name: Measured() for name in makers}
        for number in range(warm_up + rounds):
            for name, subject in subjects.items():
                seconds, cpu_seconds, gib = subject.run()
                if number >= warm_up:
                    found[name].seconds.append(seconds)
                    found[name].cpu_seconds.append(cpu_seconds)
                    found[name].gib = gib
    return found


def compare(benchmark: str, case: str, against: str, measured: dict[str, Measured], *, per: int = 1,
            cpu: bool = False) -> Result:
    """Return how many times as fast `case` is as `against`, by pairs of rounds. per: steps or images of a round.

    cpu: by CPU seconds, for what several processes share.
    """
    one, other = ((found.cpu_seconds if cpu else found.seconds) for found in (measured[case], measured[against]))
    return make_result(benchmark, case, against, [b / a for a, b in zip(one, other, strict=True)],
                       unit="times as fast as", better="higher", seconds=statistics.median(one) / per,
                       other_seconds=statistics.median(other) / per)


def compare_cost(benchmark: str, case: str, against: str, measured: dict[str, Measured], *, per: int = 1) -> Result:
    """Return how many times the seconds of `against` the `case` takes, by pairs of rounds."""
    one, other = (measured[name].seconds for name in (case, against))
    return make_result(benchmark, case, against, [a / b for a, b in zip(one, other, strict=True)], unit="times",
                       better="lower", seconds=statistics.median(one) / per,
                       other_seconds=statistics.median(other) / per)


def make_result(benchmark: str, case: str, against: str, ratios: list[float], *, unit: str, better: str,
                **seconds) -> Result:
    """Return the result of these ratios."""
    return Result(benchmark, case, against, better, unit, statistics.median(ratios), min(ratios), max(ratios),
                  len(ratios), **seconds)


def describe_machine() -> dict:
    """Return device, threads and versions, for the lines of the JSON file."""
    cuda = torch.cuda.is_available()
    return {"device": torch.cuda.get_device_name() if cuda else _read_cpu_name(), "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "versions": {package.__name__: package.__version__ for package in PACKAGES}}


def write_lines(path: Path, results: list[Result], *, command: str):
    """Write one JSON line a result."""
    about = {"command": command, **describe_machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({**asdict(result), **about}) + "\n" for result in results))


def choose_device() -> str:
    """Return cuda if there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class _Subject:
    """A process that prepares and runs a subject when told to."""

    def __init__(self, name: str, maker: Callable):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(
            there, maker, torch.get_num_threads(), not name.startswith("plain")))
        self._process.start()
        there.close()

    def run(self) -> tuple[float, float, float]:
        """Return seconds, CPU seconds and the GiB held at most so far."""
        self._pipe.send("run")
        return self._pipe.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()
        self._process.join()


def _serve(pipe, maker: Callable, threads: int, keep: bool):
    multiprocessing.set_start_method(None, force=True)  # of loader processes: the default, as in main.py
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    function, device = maker(), torch.device(choose_device())
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send((*_time(function), peak_memory(device)))


def _time(function: Callable) -> tuple[float, float]:
    _wait()
    start, cpu_start = time.perf_counter(), time.process_time()
    function()
    _wait()
    return time.perf_counter() - start, time.process_time() - cpu_start


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _read_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")
