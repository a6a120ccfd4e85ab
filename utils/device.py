"""The device that a run computes on: which one, how much memory it took, and equal sums on it."""
import os
import sys
import warnings
from contextlib import contextmanager

import torch

from utils import distributed, launch
from utils.errors import UserError
from utils.logging import logger
from utils.memory import keep_freed_memory

try:
    import resource
except ImportError:  # Windows
    resource = None


def choose_device(device: str = "auto", gpu_id: str | None = None) -> torch.device:
    """Return the device of --device and --gpu_id, and log it; under torchrun, join the other processes.

    cuda is the first GPU of --gpu_id, else of CUDA_VISIBLE_DEVICES, else GPU 0; under torchrun that of the process's
    number. auto is cuda, else Apple's GPU (mps), else the CPU. Raises UserError for a device that isn't there.
    """
    keep_freed_memory()
    if launch.launched():
        return _join_ranks(device)
    if device in ("cpu", "mps"):
        return _take_other(device, asked=True)
    flag = f"--gpu_id {gpu_id}" if gpu_id else f"--device {device}"
    gpu_id = gpu_id or _find_visible(device)
    if gpu_id is not None or "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0" if gpu_id is None else gpu_id
    if not torch.cuda.is_available():
        if gpu_id is not None and launch.NVIDIA_GPUS.is_dir():
            raise UserError(f"{flag}: no such GPU (nvidia-smi lists them; leave it out for the CPU)")
        if device != "auto":
            raise UserError(f"--device {device}: no GPU is visible (give --device cpu, or leave it out)")
        return _take_other("mps" if torch.backends.mps.is_available() else "cpu", gpu_id=gpu_id)
    asked, found = len((gpu_id or "0").split(",")), torch.cuda.device_count()
    if found < asked:
        raise UserError(f"{flag}: found {found} of these {asked} GPUs")
    logger.info("Device: cuda (%s)", ", ".join(torch.cuda.get_device_name(index) for index in range(found)))
    return torch.device("cuda")


def _take_other(name: str, *, asked: bool = False, gpu_id: str | None = None) -> torch.device:
    """Return the CPU, or Apple's GPU, and log it."""
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine or this torch has no Metal GPU (give --device cpu, or leave it "
                        "out)")
    unused = f", --gpu_id {gpu_id} changes nothing" if gpu_id else ""
    found = "Apple's GPU; --device cpu is the CPU" if name == "mps" else "no GPU is visible"
    logger.info("Device: %s%s", name, ", as asked" if asked else f" ({found}{unused})")
    return torch.device(name)


def _find_visible(device: str) -> str | None:
    """Return what `cuda:1` is among the GPUs of CUDA_VISIBLE_DEVICES; None for a device without a number."""
    number = device.partition(":")[2]
    if not number or "CUDA_VISIBLE_DEVICES" not in os.environ:
        return number or None
    visible = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    if int(number) >= len(visible):
        raise UserError(f"--device {device}: CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, its GPUs "
                        "are counted from cuda:0: give one of them, or unset that variable")
    return visible[int(number)]


def device_of(model: torch.nn.Module) -> torch.device:
    """Return where the model's weights are; the CPU for a model without any."""
    return next((value.device for values in (model.parameters(), model.buffers()) for value in values),
                torch.device("cpu"))


def peak_memory(device: torch.device) -> float:
    """Return the GiB that this process has held at most: of the GPU's memory, on the CPU of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10) / 2**30


@contextmanager
def deterministic_sums():
    """Give equal bits for equal inputs: on a GPU, sums in a fixed order (those of resized gradients are not always)."""
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would take a quarter of the time
        torch.backends.cudnn.benchmark = False
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def _join_ranks(asked: str) -> torch.device:
    if asked not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {asked}: under torchrun give cpu or cuda, or leave it out (each process has its own "
                        "GPU)")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible (give --device cpu, or leave it out)")
    device = torch.device("cpu")
    if asked != "cpu" and torch.cuda.is_available():
        if launch.local_rank() >= (found := torch.cuda.device_count()):
            raise UserError(f"torchrun started more processes than there are GPUs: give --nproc_per_node={found}")
        device = torch.device("cuda", launch.local_rank())
    distributed.join_group(device)
    logger.info("Device: %s, %d processes", device.type, distributed.world_size())
    return device
