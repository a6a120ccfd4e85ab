"""Two functions timed in turn, A B A B ..., so that a machine whose speed drifts treats both alike."""
import statistics
import time

import torch


def pairs(first, second, *, count: int, warm_up: int = 1) -> list[tuple[float, float]]:
    """Seconds of (first, second), `count` times after `warm_up` uncounted ones."""
    times = [(_seconds(first), _seconds(second)) for _ in range(warm_up + count)]
    return times[warm_up:]


def report(names: tuple[str, str], times: list[tuple[float, float]]):
    """Print each one's median, and the median, smallest and largest ratio of a pair."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{len(times)} pairs on {device}, torch {torch.__version__}")
    for name, seconds in zip(names, zip(*times, strict=True), strict=True):
        print(f"  {name:<12} median {statistics.median(seconds):.3f} s")
    ratios = [first / second for first, second in times]
    print(f"  {names[0]} / {names[1]}: median {statistics.median(ratios):.2f} "
          f"(smallest {min(ratios):.2f}, largest {max(ratios):.2f})")


def _seconds(function) -> float:
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
