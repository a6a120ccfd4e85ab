"""Time functions in turn, A B C A B C ..., so that a drift of the machine's speed affects all alike."""
import statistics
import time
from collections.abc import Callable

import torch


def time_in_turn(functions: dict[str, Callable], *, count: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each function in `count` rounds, after `warm_up` uncounted ones."""
    times = {name: [] for name in functions}
    for _ in range(warm_up + count):
        for name, function in functions.items():
            times[name].append(_time(function))
    return {name: seconds[warm_up:] for name, seconds in times.items()}


def report(times: dict[str, list[float]], *, baseline: str, per: int = 1):
    """Print each function's median of seconds / per, and median, minimum and maximum of its ratio to `baseline`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{len(times[baseline])} rounds on {device}, torch {torch.__version__}")
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times[baseline], strict=True)]
        print(f"  {name:<14} median {statistics.median(seconds) / per:.3f} s, "
              f"{statistics.median(ratios):.2f} times {baseline} ({min(ratios):.2f} to {max(ratios):.2f})")


def _time(function) -> float:
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
