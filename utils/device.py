"""The device that a run computes on: which one, how much memory it took, and equal sums on it."""
import os
import sys
import warnings
from contextlib import contextmanager

import torch

from utils import distributed, launch
from utils.errors import UserError
from utils.logging import logger

try:
    import resource
except ImportError:  # Windows
    resource = None

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cudnn_status_alloc_failed",
             "cublas_status_alloc_failed")


def choose_device(gpu_id: str | None) -> torch.device:
    """Return the first GPU of --gpu_id, else of CUDA_VISIBLE_DEVICES, else GPU 0; the CPU where there is none.

    Under torchrun the process joins the others, and has the GPU of its own number.
    """
    if launch.launched():
        return _join_ranks()
    if gpu_id is not None or "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0" if gpu_id is None else gpu_id
    if not torch.cuda.is_available():
        if gpu_id is not None and launch.NVIDIA_GPUS.is_dir():
            raise UserError(f"--gpu_id {gpu_id}: no such GPU (nvidia-smi lists them; leave it out for the CPU)")
        logger.info("Device: cpu (no GPU is visible%s)", f", --gpu_id {gpu_id} changes nothing" if gpu_id else "")
        return torch.device("cpu")
    asked, found = len((gpu_id or "0").split(",")), torch.cuda.device_count()
    if found < asked:
        raise UserError(f"--gpu_id {gpu_id}: found {found} of these {asked} GPUs")
    logger.info("Device: cuda (%s)", ", ".join(torch.cuda.get_device_name(index) for index in range(found)))
    return torch.device("cuda")


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the GPU's or the machine's memory was too small, as torch, cuDNN and cuBLAS say it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY))


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


def _join_ranks() -> torch.device:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if launch.local_rank() >= (found := torch.cuda.device_count()):
            raise UserError(f"torchrun started more processes than there are GPUs: give --nproc_per_node={found}")
        device = torch.device("cuda", launch.local_rank())
    distributed.join_group(device)
    logger.info("Device: %s, %d processes", device.type, distributed.world_size())
    return device
