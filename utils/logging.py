"""One logger for everything the user reads: bare lines on the console, and in log.txt once the run has a folder.

Names in these lines may be a stranger's (of files, classes, weights), so control characters are written out.

Of several processes rank 0 has them; the others only say what went wrong, as "[rank 1] error: ...".
"""
import logging
import os
import sys
from pathlib import Path

from utils.distributed import is_main, rank
from utils.text import printable

logger = logging.getLogger("segmentation")


class _Visible(logging.Formatter):
    """The bare message, without characters that a terminal obeys."""

    def format(self, record):
        return printable(super().format(record))


class Steady:
    """A stream whose reader may have gone, such as a `| tee` that the same Ctrl-C has ended: the rest goes nowhere."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str):
        """Write, if anybody reads."""
        self._try(self.stream.write, text)

    def flush(self):
        """Flush, if anybody reads."""
        self._try(self.stream.flush)

    def _try(self, function, *args):
        try:
            function(*args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class _Console(logging.Handler):
    """Errors to stderr, all else to stdout, as they are at that moment: a redirected or captured one gets the line."""

    def __init__(self):
        super().__init__()
        self.setFormatter(_Visible())

    def emit(self, record):
        stream = Steady(sys.stderr if record.levelno >= logging.ERROR else sys.stdout)
        stream.write(self.format(record) + "\n")
        stream.flush()


class _Earlier(logging.Handler):
    """Keeps the lines that come before the run has a folder."""

    def __init__(self):
        super().__init__()
        self.setFormatter(_Visible())
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def start_log():
    """A new run: show every line, and keep it for the log file that follows; on other ranks than 0 errors alone."""
    stop_log()
    logger.propagate = False
    logger.addHandler(console := _Console())
    if is_main():
        logger.setLevel(logging.INFO)
        logger.addHandler(_Earlier())
    else:
        logger.setLevel(logging.ERROR)
        console.setFormatter(_Visible(f"[rank {rank()}] %(message)s"))


def log_to_file(path):
    """Append every line to the file `path` from now on, the lines since start_log() first; on rank 0 alone."""
    if not is_main():
        return
    file = logging.FileHandler(Path(path), encoding="utf-8")
    file.setFormatter(_Visible())
    for handler in list(logger.handlers):
        if isinstance(handler, _Earlier):
            file.stream.writelines(line + "\n" for line in handler.lines)
            file.flush()
            logger.removeHandler(handler)
    logger.addHandler(file)


def stop_log():
    """Close the log file and forget what was kept."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
