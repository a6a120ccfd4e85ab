"""Fetches an archive and unpacks one folder of it: checked, safe, and either whole or not at all."""
import tarfile
import tempfile
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import download_url

from utils.errors import UserError
from utils.logging import logger


def fetch_folder(root: Path, folder: str, *, url: str, md5: str):
    """Make root/folder from the tar archive at url; nothing happens where that folder is there already.

    The archive stays in root, so that a second try needn't fetch it again; one with another md5 (VOC publishes no
    other hash) is deleted. Raises UserError where the download fails, or where the archive holds anything but files
    and folders that lie in it.
    """
    if (root / folder).is_dir():
        return
    logger.info("Downloading %s to %s", url, root)
    try:
        # Named after the url: torchvision's table gives VOC2008 the file name of VOC2012.
        archive = root / url.rsplit("/", 1)[-1]
        _fetch(url, archive, md5)
        _unpack(archive, root, folder)
    except (OSError, RuntimeError, ValueError, HTTPException, tarfile.TarError) as error:  # ValueError: a NUL in a name
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--download of {url} failed ({reason}): "
                        f"try again, or unpack the archive in {root} yourself.") from error


def _fetch(url, archive, md5):
    try:
        download_url(url, archive.parent, archive.name, md5)  # not again where that md5 is there already
    except RuntimeError:
        archive.unlink(missing_ok=True)  # nobody shall unpack it by hand
        raise


def _unpack(archive, root, folder):
    # Into a folder beside first: what is interrupted or refused half-way must not look like a data set.
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as scratch:
        with tarfile.open(archive, "r:") as tar:  # uncompressed, as VOC's are: it can't hold more than its own size
            _check_members(tar, size=archive.stat().st_size)
            tar.extractall(scratch, filter="data")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / folder).rename(root / folder)


def _check_members(tar, *, size):
    """Raise TarError for links and devices, which no data set needs, and for sparse files of more than `size` bytes.

    The filter "data" refuses links that lead outside; its history has ways round that, all through links.
    """
    total = 0
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
        if (total := total + member.size) > size:
            raise tarfile.TarError(f"{member.name!r} is larger than the whole archive")
