"""Freed memory is reused: the system's own count of the pages that it had to hand out."""
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from utils.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def fill():
    np.ones(64 << 20, dtype=np.uint8)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_a_large_block_is_filled_again_without_new_pages(root):
    faults = {how: int(subprocess.run([sys.executable, "-c", COUNT, how], cwd=root, capture_output=True, text=True,
                                      check=True, timeout=120).stdout) for how in ("keep", "return")}
    assert faults["keep"] < 50 < faults["return"]
