"""Several commands at once, each with its own log, and one progress bar with the time left."""
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm


def run_side_by_side(commands: dict[str, list[str]], folder: Path, *, total: int, count_done: Callable[[str], int],
                     title: str, at_once: int = 2):
    """Run {name: command}, `at_once` at a time in this order; output goes to folder/NAME.log.

    Each has one thread, unless OMP_NUM_THREADS is set. count_done(name) -> the work that a started command has done, of
    `total` for all. If a command fails, its last lines are written to stderr and SystemExit has its code; then, and at
    a Ctrl-C, the others are ended too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running = list(commands), {}
    with tqdm(total=total, desc=title, mininterval=0.2 if sys.stderr.isatty() else 30, smoothing=0,
              bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed} elapsed, {remaining} left") as bar:
        try:
            while waiting or running:
                for name in waiting[:at_once - len(running)]:
                    running[name] = _start(commands[waiting.pop(0)], folder / f"{name}.log")
                time.sleep(0.5)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    _check(running.pop(name).returncode, folder / f"{name}.log")
                bar.update(sum(count_done(name) for name in commands if name not in waiting) - bar.n)
            bar.update(total - bar.n)
        finally:
            for process in running.values():
                process.terminate()
                process.wait()


def _start(command: list[str], log: Path) -> subprocess.Popen:
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={"OMP_NUM_THREADS": "1", **os.environ})


def _check(code: int, log: Path):
    if code:
        last = log.read_text(errors="replace").splitlines()[-10:]
        sys.stderr.write("\n".join(["", *last, f"This command failed; its whole output is in {log}\n"]))
        raise SystemExit(code if code > 0 else 128 - code)  # below 0: the signal that ended it
