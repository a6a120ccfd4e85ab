"""The figures of the log line: means since the previous line, speed, time left, peak memory."""
import time
from collections import defaultdict
from datetime import timedelta

import torch

from utils.device import peak_memory


class Meter:
    """Collects measurements and times of steps until the next log line. images: per step, over all processes."""

    def __init__(self, *, images: int, device: torch.device):
        self.images, self.device = images, device
        self.clear()

    def clear(self):
        """Forget what was collected."""
        self.values, self.seconds, self.steps = defaultdict(list), 0.0, 0
        self.before = {}  # name -> values measured before the run was stopped, [n]

    def start(self):
        """Start the clock of a step, before its batch is loaded."""
        self._started = time.perf_counter()

    def stop(self, measured: dict[str, torch.Tensor]):
        """Stop the clock and keep what the step measured, as tensors: reading one would wait for the GPU."""
        self.seconds += time.perf_counter() - self._started
        self.steps += 1
        for name, value in measured.items():
            self.values[name].append(value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return {name: values measured since the last line}: float32 [n] on the CPU."""
        now = {name: torch.stack([value.float() for value in values]).cpu() for name, values in self.values.items()}
        return {name: torch.cat([part[name] for part in (self.before, now) if name in part])
                for name in self.before | now}

    def load_state_dict(self, values: dict[str, torch.Tensor]):
        """Restore state_dict() of a run that was stopped, without the time that it took."""
        self.before = {str(name): value.float().flatten() for name, value in values.items()}

    def take(self, *, itrs_left: int) -> dict:
        """Return {name: mean} with Images/s, ETA (timedelta) and Memory (GiB), and start collecting again."""
        means = {name: values.mean().item() for name, values in self.state_dict().items()}
        pace = self.seconds / self.steps
        means |= {"Images/s": self.images / pace, "ETA": timedelta(seconds=round(itrs_left * pace)),
                  "Memory": peak_memory(self.device)}
        self.clear()
        return means


def format_line(seen: dict) -> str:
    """Return what take() returned as the end of a log line; without a loss all steps were skipped."""
    parts = [f"Loss={seen['Loss']:f}"] if "Loss" in seen else ["no finite loss"]
    formats = {"Gradient norm": "|g|={:.3g}", "Perturbation": "|e|={:.3g}", "Sharpness": "L(w+e)-L(w)={:.3g}",
               "Learning rate": "lr={:.3g}", "Images/s": "{:.3g} images/s", "ETA": "ETA {}", "Memory": "{:.2f} GiB"}
    return ", ".join(parts + [text.format(seen[name]) for name, text in formats.items() if name in seen])
