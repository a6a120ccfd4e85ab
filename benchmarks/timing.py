"""Functions timed in turn, A B C A B C ..., so that a machine whose speed drifts treats all alike."""
import statistics
import time
from collections.abc import Callable

import torch


def rounds(functions: dict[str, Callable], *, count: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each function, `count` times after `warm_up` uncounted rounds."""
    times = {name: [] for name in functions}
    for _ in range(warm_up + count):
        for name, function in functions.items():
            times[name].append(_seconds(function))
    return {name: seconds[warm_up:] for name, seconds in times.items()}


def report(times: dict[str, list[float]], *, baseline: str, per: int = 1):
    """Print each one's median of seconds / per, and the median, smallest and largest of its ratios to `baseline`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{len(times[baseline])} rounds on {device}, torch {torch.__version__}")
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times[baseline], strict=True)]
        print(f"  {name:<14} median {statistics.median(seconds) / per:.3f} s, "
              f"{statistics.median(ratios):.2f} times {baseline} ({min(ratios):.2f} to {max(ratios):.2f})")


def _seconds(function) -> float:
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
