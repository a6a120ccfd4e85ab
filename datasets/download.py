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

    The archive stays in root, so that a second try needn't fetch it again. Raises UserError where the download
    fails, its md5 is another one, or a member of the archive points outside of it.
    """
    if (root / folder).is_dir():
        return
    logger.info("Downloading %s to %s", url, root)
    try:
        # Named after the url: torchvision's table gives VOC2008 the file name of VOC2012.
        archive = root / url.rsplit("/", 1)[-1]
        download_url(url, root, archive.name, md5)
        _unpack(archive, root, folder)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--download of {url} failed ({reason}): "
                        f"try again, or unpack the archive in {root} yourself.") from error


def _unpack(archive, root, folder):
    # Into a folder beside first: what is interrupted or refused half-way must not look like a data set.
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / folder).rename(root / folder)
