"""What the lines of training say."""
from datetime import timedelta

import pytest
import torch

from engine.training import meter
from engine.training.meter import Meter, format_line


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    class Clock:
        now = 0.0

    monkeypatch.setattr(meter.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_speed_counts_the_time_in_steps_alone(clock):
    found = Meter(images=8, device=torch.device("cpu"))
    for at, loss, above in [(0.0, 1.0, None), (100.0, 2.0, 0.5)]:  # between them a validation
        clock.now = at
        found.start()
        clock.now = at + 4
        found.stop({"Loss": torch.tensor(loss)} | ({"Sharpness": torch.tensor(above)} if above else {}))
    seen = found.take(itrs_left=100)
    assert (seen["Loss"], seen["Sharpness"]) == (1.5, 0.5)  # of the steps that have one
    assert seen["Images/s"] == 2.0 and seen["ETA"] == timedelta(seconds=400)
    clock.now = 200.0
    found.start()
    clock.now = 201.0
    found.stop({"Loss": torch.tensor(7.0)})
    assert found.take(itrs_left=2)["Loss"] == 7.0  # what was before is forgotten


def test_a_line():
    seen = {"Loss": 0.5, "Gradient norm": 1.234, "Perturbation": 0.02, "Sharpness": 0.0312, "Learning rate": 0.00123,
            "Images/s": 12.34, "ETA": timedelta(hours=1, seconds=5), "Memory": 1.234}
    assert format_line(seen) == ("Loss=0.500000, |g|=1.23, |e|=0.02, L(w+e)-L(w)=0.0312, lr=0.00123, 12.3 images/s, "
                          "ETA 1:00:05, 1.23 GiB")
    assert format_line({"Images/s": 1.0}) == "no finite loss, 1 images/s"


def test_peak_memory_is_that_of_this_process():
    before = meter.peak_memory(torch.device("cpu"))
    held = torch.ones(2**28, dtype=torch.uint8) + torch.ones(2**28, dtype=torch.uint8)  # 0.25 GiB each
    assert 0.05 < before < 100 and len(held) and meter.peak_memory(torch.device("cpu")) >= max(before, 0.5)
