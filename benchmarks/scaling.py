"""Training steps of one and of two processes (torchrun), each with its own batch, and a model that predicts them.

    python -m benchmarks.scaling

Two processes on one machine share its memory's bandwidth, so a step without an exchange is measured with both at work
too. The model: a step takes that long, plus the time of summing the gradients. (DistributedDataParallel begins to sum
before the backward pass has ended, so it may be faster.)
"""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import train_step
from benchmarks.timing import Result, make_result
from engine.training.step import TrainingStep
from network import build_model, parallelize
from optim import build_loss, build_optimizer
from utils import distributed
from utils.device import choose_device
from utils.memory import keep_freed_memory

STEPS, WARM_UP = 5, 1


def measure() -> dict:
    """Return what this process measured: seconds of steps alone and with the exchange, of a sum of all gradients."""
    keep_freed_memory()
    device = choose_device()
    torch.manual_seed(0)
    model = build_model(train_step.MODEL, num_classes=train_step.CLASSES, output_stride=16).train()
    model.to(device, memory_format=torch.channels_last)
    images, labels = train_step.make_batch(device.type)
    gradients = torch.zeros(sum(value.numel() for value in model.parameters()), device=device)
    found = {}
    for name in ("alone", "together"):
        net = model if name == "alone" else parallelize(model, replicas=1, sync_bn=False)
        optimizer = build_optimizer("sgd", [{"params": model.parameters()}], lr=1e-3, weight_decay=1e-4)
        step = TrainingStep(model, net, optimizer=optimizer, criterion=build_loss("cross_entropy"))
        found[name] = _time(lambda step=step: step(images, labels), device)
    found["sum"] = _time(lambda: distributed.sum_over_ranks(gradients), device)
    return {**found, "megabytes": gradients.numel() * 4 / 1e6, "images": len(images)}


def _time(function, device) -> list[float]:
    seconds = []
    for _ in range(WARM_UP + STEPS):
        distributed.barrier()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        distributed.barrier()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def launch(processes: int) -> dict:
    """Return what rank 0 of so many processes measured."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
               "-m", "benchmarks.scaling", "--child"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise RuntimeError(f"torchrun failed:\n{done.stderr[-2000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def run() -> list[Result]:
    """Return images a second of a process a GPU, two on the CPU, against one; measured and predicted.

    Nothing on a machine with one GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 2
    if count == 1:
        return []
    one, several = launch(1), launch(count)
    pairs = list(zip(one["together"], several["together"], strict=True))
    predicted = [count * first / (alone + summed) for first, alone, summed in
                 zip(one["together"], several["alone"], several["sum"], strict=True)]
    case = f"{count} processes"
    return [make_result("scaling", case, "one", [count * first / other for first, other in pairs],
                        unit="times as fast as", better="higher", seconds=sorted(several["together"])[STEPS // 2],
                        other_seconds=sorted(one["together"])[STEPS // 2]),
            make_result("scaling", f"{case}, predicted", "one", predicted, unit="times as fast as", better="higher")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", action="store_true", help="measure in this process of torchrun")
    if parser.parse_args().child:
        measured = measure()
        if distributed.is_main():
            print(json.dumps(measured))
        distributed.leave_group()
    else:
        for result in run():
            print(result.line)
