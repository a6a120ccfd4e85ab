"""Write files safely: completely or not at all, never over an earlier result, by one process at a time."""
import contextlib
import errno
import io
import itertools
import os
import tempfile
import time
from pathlib import Path

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no fcntl: a second process is not kept out
    fcntl = None

# Seconds to wait for a lock: the data loader workers of a killed run keep its files open, for up to 7 s as measured.
LOCK_WAIT = 12.0
SHARDS = "shards"  # in a run's folder


def write_atomically(path: Path, content: str | bytes, *, keep_old: bool = False):
    """Write a temporary file and rename it to `path`, so that `path` always has complete content.

    With keep_old, a file already at `path` is first renamed, see keep_earlier(). Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    if keep_old:
        keep_earlier(path)
    os.replace(temporary, path)


def keep_earlier(path: Path):
    """Rename the file or folder at `path`, if there is one, to the first free of name.1, name.2, ..."""
    if path.exists():
        names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))


def try_lock(file, *, per_process: bool = False) -> bool:
    """Lock an open file for writing; return False if another process holds the lock.

    The lock belongs to the open file, so forked children keep it after the parent is killed, and a second open file in
    the same process conflicts with it. With per_process it belongs to this process alone and ends with it. Returns
    True if the system or the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        (fcntl.lockf if per_process else fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@contextlib.contextmanager
def write_together(folder: Path):
    """Yield a temporary folder whose files are moved into `folder` at the end; after an error none are.

    Raises UserError if `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as part:
            yield Path(part)
            for path in Path(part).iterdir():
                os.replace(path, folder / path.name)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error}): choose another folder") from None


class AppendOnly:
    """The file `path`, created if missing and locked until close(); text is only ever appended, completely.

    Raises UserError if the file cannot be written, naming the flag that chooses its folder, or if another process has
    locked it.
    """

    def __init__(self, path: Path, *, flag: str = "--output_dir"):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(path, "a+")
        except OSError as error:
            raise UserError(f"{path} can't be written ({error}): choose another {flag}") from None
        deadline = time.monotonic() + LOCK_WAIT
        while not (locked := try_lock(self._file)) or self._was_replaced():
            if time.monotonic() >= deadline:
                self._file.close()
                raise UserError(f"{path} is being written by another process: wait for it to end or stop it")
            if locked:
                self._file.close()
                self._file = io.FileIO(path, "a+")
            else:
                time.sleep(0.1)

    def read(self) -> bytes:
        """Return the content."""
        self._file.seek(0)
        return self._file.readall()

    def truncate(self, size: int):
        """Keep only the first `size` bytes."""
        self._file.truncate(size)

    def write(self, text: str):
        """Append the text and wait until it is on the disk; if that fails, remove what was written of it.

        Raises UserError if the disk is full.
        """
        size, rest = self._file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest):]
            os.fsync(self._file.fileno())
        except OSError as error:
            self.truncate(size)
            raise UserError(f"{self.path} can't be written ({error}): make room there") from None
        except BaseException:  # such as Ctrl-C
            self.truncate(size)
            raise

    def replace(self, text: str):
        """Replace the whole content, at once, and keep the lock. Raises UserError."""
        if fcntl is None:  # Windows doesn't rename over an open file
            self.truncate(0)
            self.write(text)
            return
        path = Path(os.path.realpath(self.path))
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as part:
                new = AppendOnly(Path(part, path.name))  # locked before others can see it
                new.write(text)
                os.replace(new.path, path)
        except OSError as error:
            raise UserError(f"{self.path} can't be written ({error}): make room there") from None
        self.close()
        self._file = new._file

    def _was_replaced(self) -> bool:
        """Return whether the locked file is no longer the one at the path."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return True

    def close(self):
        """Release the lock, even if a forked worker still has the file open, and close the file."""
        if fcntl is not None and not self._file.closed:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def find_shard(run: Path, shard: str) -> Path:
    """Return the folder of a shard `I/N` (--shard) in a run."""
    return run / SHARDS / shard.replace("/", "-of-")


def find_run(given: str, output_dir: str) -> Path:
    """Return the folder of a run that is given as a name in output_dir or as a path; it may not exist."""
    return named if (named := Path(output_dir, given)).is_dir() else Path(given)


def name_folders(folders: list[Path]) -> dict[str, Path]:
    """Return {name: folder}: a folder's name, with its parents' in front where that is needed to tell folders apart."""
    paths = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = {"/".join(path.parts[-parts:]): path for path in paths}
        if len(names) == len(paths):
            break
    return names
