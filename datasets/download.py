"""Download an archive, check it, and unpack one folder of it completely or not at all."""
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import download_url

from utils.errors import UserError
from utils.logging import logger


def fetch_folder(root: Path, folder: str, *, url: str, md5: str):
    """Create root/folder from the tar archive at `url`; do nothing if that folder exists.

    The archive stays in root, so that a second attempt need not download it again; an archive with another md5 (the
    only hash that VOC publishes) is deleted. Raises UserError if the download fails or the archive holds anything but
    files and folders inside itself.
    """
    if (root / folder).is_dir():
        return
    logger.info("Downloading %s to %s", url, root)
    try:
        # Named after the url, because torchvision's table lists VOC2012's file name for VOC2008 too.
        archive = root / url.rsplit("/", 1)[-1]
        _fetch(url, archive, md5)
        _unpack(archive, root, folder)
    except (OSError, RuntimeError, ValueError, HTTPException, tarfile.TarError) as error:  # ValueError: a NUL in a name
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--download of {url} failed ({reason}): "
                        f"try again or unpack the archive in {root} yourself.") from error


def _fetch(url, archive, md5):
    try:
        download_url(url, archive.parent, archive.name, md5)  # skips a file with this md5
    except RuntimeError:
        archive.unlink(missing_ok=True)  # so that nobody unpacks a corrupted archive by hand
        raise


def _unpack(archive, root, folder):
    # Into a temporary folder first: an interrupted or refused archive must not look like a complete data set.
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as scratch:
        with tarfile.open(archive, "r:") as tar:  # uncompressed like VOC's: can't unpack to more than its size
            _check_members(tar, size=archive.stat().st_size)
            tar.extractall(scratch, filter="data")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / folder).rename(root / folder)


def _check_members(tar, *, size):
    """Raise TarError for links and devices, which data sets do not need, and for more than `size` bytes of content.

    tarfile's filter "data" refuses links to the outside, but every way around it so far used links.
    """
    total = 0
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
        if (total := total + member.size) > size:
            raise tarfile.TarError(f"{member.name!r} is larger than the whole archive")
