"""Errors of too little memory; without torch, so that a wrong flag is answered at once."""

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cudnn_status_alloc_failed",
             "cublas_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the GPU's or the machine's memory was too small, as torch, cuDNN and cuBLAS say it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY))
