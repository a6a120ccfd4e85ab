"""The figures of the log line: means since the previous line, speed, time left, peak memory; who is told them."""
import time
from collections import defaultdict
from datetime import timedelta

import torch

from utils import distributed
from utils.dashboards import Dashboard
from utils.device import peak_memory
from utils.history import TRAIN, VAL, History
from utils.logging import logger

FORMATS = {"Gradient norm": "|g|={:.3g}", "Perturbation": "|e|={:.3g}", "Sharpness": "L(w+e)-L(w)={:.3g}",
           "Adversarial share": "", "Learning rate": "lr={:.3g}", "Images/s": "{:.3g} images/s", "ETA": "ETA {}",
           "Memory": "{:.2f} GiB"}
MEASURED = ["Loss", *(name for name in FORMATS if name != "ETA")]
ROBUST = "Robust Mean IoU"  # of --val_attack
SCORES = ["Overall Acc", "Mean Acc", "FreqW Acc", "Mean IoU", ROBUST]


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
    return ", ".join(parts + [text.format(seen[name]) for name, text in FORMATS.items() if name in seen and text])


class Progress:
    """Tells the log, the dashboard and history.csv (in `folder`; None: no file) how a training goes."""

    def __init__(self, dashboard: Dashboard, *, class_names: list[str], folder=None):
        self.dashboard = dashboard
        self.class_columns = [f"IoU {name}" for name in class_names]
        self.history = folder and History(folder / "history.csv", [*MEASURED, *SCORES, *self.class_columns])

    def open(self, *, itr: int, validated: int, continues: bool):
        """Open the history at this iteration; see History.open()."""
        if self.history and distributed.is_main():
            self.history.open(itr=itr, validated=validated, continues=continues)

    def add_line(self, seen: dict, *, itr: int, epoch: int, total_itrs: int):
        """Tell what Meter.take() returned."""
        logger.info("Epoch %d, Itrs %d/%d, %s", epoch, itr, total_itrs, format_line(seen))
        for name, value in seen.items():
            if isinstance(value, float):
                self.dashboard.scalar(name, itr, value)
        self._add_row(TRAIN, itr, epoch, {name: value for name, value in seen.items() if name in MEASURED})

    def add_validation(self, results: dict, *, itr: int, epoch: int):
        """Tell a validation's scores, of which the log and the dashboard have been told."""
        class_iou = dict(zip(self.class_columns, results.get("Class IoU", {}).values(), strict=False))
        self._add_row(VAL, itr, epoch, {name: results[name] for name in SCORES if name in results} | class_iou)

    def _add_row(self, split: str, itr: int, epoch: int, values: dict):
        if self.history and distributed.is_main():
            self.history.add(split, itr=itr, epoch=epoch, values=values)
