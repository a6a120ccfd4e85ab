"""--version: the program, its packages, the machine; works without a GPU, without git and outside a clone."""
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from utils.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
# Those of requirements.txt that a run uses, and extras.
PACKAGES = ("torchvision", "numpy", "pillow", "tqdm", "visdom", "tornado", "matplotlib", "tensorboard", "onnx",
            "onnxruntime", "imagecorruptions-imaug", "opencv-python-headless")
CHANGED = " with uncommitted changes"


def find_versions() -> dict[str, str]:
    """Return {name: version} of the program with its commit, Python, the packages, and the device."""
    return {"robust-segmentation": f"{VERSION}, commit {find_commit(ROOT)}", "python": platform.python_version(),
            "system": platform.platform(), "torch": torch.__version__, **{name: _find(name) for name in PACKAGES},
            "device": describe_device()}


def find_commit(folder: Path) -> str:
    """Return the commit of a clone, and whether files were changed since; "unknown" without git or outside a clone."""
    if not (folder / ".git").exists():  # git would describe a repository around the folder
        return "unknown"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(folder), "describe", "--always", f"--dirty={CHANGED}", "--exclude=*",
                               "--abbrev=12"], capture_output=True, text=True, timeout=60, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):  # no git, a clone of another user, nothing committed yet
        return "unknown"
    return done.stdout.strip()


def describe_device() -> str:
    """Return the names of the GPUs, and torch's threads on the CPU."""
    cpu = (f"CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads, "
           f"{os.cpu_count()} cores")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{', '.join(names)}, CUDA {torch.version.cuda}; {cpu}"
    return f"Apple's GPU (mps); {cpu}" if torch.backends.mps.is_available() else f"{cpu}; no GPU is visible"


def _find(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
