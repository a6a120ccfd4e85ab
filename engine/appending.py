"""A file that is only appended to, by one process at a time, and never with half of what was to be added."""
import contextlib
import io
import os
import time
from pathlib import Path

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing there keeps a second process out
    fcntl = None

# Seconds: the loader's processes of a killed run hold its files open for some more, seven were seen.
LOCK_WAIT = 12.0


class AppendOnly:
    """The file `path`, created where it is not there, and ours until close().

    Raises UserError where it can't be written, or where another process has it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(path, "a+")
        except OSError as error:
            raise UserError(f"{path} can't be written ({error}): choose another --output_dir") from None
        deadline = time.monotonic() + LOCK_WAIT
        while not self._locked():
            if time.monotonic() >= deadline:
                self._file.close()
                raise UserError(f"{path} is being written by another process: wait for it to end, or end it")
            time.sleep(0.1)

    def read(self) -> bytes:
        """All that is in it."""
        self._file.seek(0)
        return self._file.readall()

    def cut(self, size: int):
        """Leave the first `size` bytes."""
        self._file.truncate(size)

    def write(self, text: str):
        """Append the text and wait for the disk. What fails half-way is taken back; a full disk is a UserError."""
        size, rest = self._file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest):]
            os.fsync(self._file.fileno())
        except OSError as error:
            self.cut(size)
            raise UserError(f"{self.path} can't be written ({error}): make room there") from None
        except BaseException:  # a Ctrl-C
            self.cut(size)
            raise

    def close(self):
        """Let others have the file, even where a forked worker still holds it open."""
        if fcntl is not None and not self._file.closed:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _locked(self) -> bool:
        """Whether the file is ours alone now; taken for granted where the system or the disk knows no locks."""
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True
