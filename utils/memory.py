"""The machine's memory: what an error of too little looks like, and how freed memory is kept for reuse.

Without torch, so that a wrong flag is answered at once.
"""
import ctypes
import sys

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cudnn_status_alloc_failed",
             "cublas_status_alloc_failed")

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(), from glibc's malloc.h


def keep_freed_memory():
    """Let glibc reuse the memory of large freed tensors instead of returning it to the system; elsewhere do nothing.

    The system zeroes each page that it hands out again, which takes a fifth of a training step on the CPU. The process
    holds on to its peak until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)  # no block gets pages of its own, which would go back as soon as it is freed
        mallopt(TRIM_THRESHOLD, -1)  # the heap never shrinks


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the GPU's or the machine's memory was too small, as torch, cuDNN and cuBLAS say it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY))
