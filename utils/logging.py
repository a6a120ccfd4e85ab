"""One logger for everything the user reads: plain lines on the console and, once the run has a folder, in log.txt.

Lines may hold names from untrusted files (of images, classes, weights), so control characters are escaped. With
several processes only rank 0 logs; the others log errors only, as "[rank 1] error: ...".
"""
import logging
import os
import sys
from pathlib import Path

from utils.ranks import is_main, rank
from utils.text import escape_unprintable

logger = logging.getLogger("segmentation")


class _EscapingFormatter(logging.Formatter):
    """Format a record as its bare message, with characters escaped that a terminal would act on."""

    def format(self, record):
        return escape_unprintable(super().format(record))


class PipeSafeStream:
    """A stream whose reader may have ended, such as a `| tee` after Ctrl-C; further text is then discarded."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str):
        """Write the text, or discard it if the reader has ended."""
        self._call(self.stream.write, text)

    def flush(self):
        """Flush the stream, unless the reader has ended."""
        self._call(self.stream.flush)

    def _call(self, function, *args):
        try:
            function(*args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class _ConsoleHandler(logging.Handler):
    """Write errors to stderr and all else to stdout, looked up for each line so that redirection works."""

    def __init__(self):
        super().__init__()
        self.setFormatter(_EscapingFormatter())

    def emit(self, record):
        stream = PipeSafeStream(sys.stderr if record.levelno >= logging.ERROR else sys.stdout)
        stream.write(self.format(record) + "\n")
        stream.flush()


class _BufferHandler(logging.Handler):
    """Keep the lines that are logged before the run has a folder."""

    def __init__(self):
        super().__init__()
        self.setFormatter(_EscapingFormatter())
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def start_log():
    """Log to the console and keep the lines for the log file; on ranks other than 0, log errors only."""
    stop_log()
    logger.propagate = False
    logger.addHandler(console := _ConsoleHandler())
    if is_main():
        logger.setLevel(logging.INFO)
        logger.addHandler(_BufferHandler())
    else:
        logger.setLevel(logging.ERROR)
        console.setFormatter(_EscapingFormatter(f"[rank {rank()}] %(message)s"))


def log_to_file(path):
    """Append the lines since start_log(), and every later line, to the file `path`; only on rank 0."""
    if not is_main():
        return
    file = logging.FileHandler(Path(path), encoding="utf-8")
    file.setFormatter(_EscapingFormatter())
    for handler in list(logger.handlers):
        if isinstance(handler, _BufferHandler):
            file.stream.writelines(line + "\n" for line in handler.lines)
            file.flush()
            logger.removeHandler(handler)
    logger.addHandler(file)


def stop_log():
    """Close the log file and discard the kept lines."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
