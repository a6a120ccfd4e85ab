"""What the server of tests/processes.py imports before it forks."""
import contextlib

import pytest  # noqa: F401
import torch.distributed.run  # noqa: F401
import torch.nn.parallel  # noqa: F401

import main  # noqa: F401
from tests import held, processes, thin  # noqa: F401

for name in ("batchnorm", "collectives", "data", "evaluation", "training"):
    with contextlib.suppress(ImportError):
        __import__(f"tests.ranked.{name}")
