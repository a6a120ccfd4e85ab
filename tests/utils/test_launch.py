"""What torchrun's environment says, read without torch."""
import subprocess
import sys

from utils import distributed, launch


def test_a_single_process_is_rank_0_of_1(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)  # one variable missing: not torchrun
    monkeypatch.setenv("RANK", "5")
    assert not launch.launched()
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (0, 1, 0, 1)


def test_torchruns_numbers(monkeypatch):
    for name, value in zip(launch.TORCHRUN, ("5", "8", "1", "host", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launch.launched()
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (5, 8, 1, 4)


def test_distributed_gives_the_same_functions():
    for name in ("TORCHRUN", "launched", "local_rank", "local_world_size"):
        assert getattr(distributed, name) is getattr(launch, name)


def test_it_does_not_import_torch(root):
    code = "import sys, utils.launch, utils.text, utils.errors, utils.files; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
