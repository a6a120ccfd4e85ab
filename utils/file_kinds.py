"""Say what a file is that can't be read as a checkpoint, and what to do with it."""
import io
import pickletools
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

HEAD = 4096  # bytes that identify a file
SHOWN = 100  # characters of a list of names
ZIP = b"PK\x03\x04"
PICKLE_BYTES = 2**24  # enough for the names in a pickle of torch before 1.6, which has its tensors at the end
NEVER_CLASSES = ("builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "codecs", "importlib", "runpy")
WEIGHT_KEYS = ("model_state", "state_dict", "model", "model_state_dict", "net", "network", "weights", "params")
# First bytes -> what the file is and what to do.
MAGIC = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file: run git lfs pull",
    b"\x89HDF\r\n": "it is an HDF5 file, as Keras writes them: there are no PyTorch weights in it",
    b"\x1f\x8b": "it is a gzip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "it is a 7z archive: unpack it",
    b"Rar!": "it is a RAR archive: unpack it",
    b"\x89PNG": "it is a PNG image", b"\xff\xd8\xff": "it is a JPEG image", b"%PDF": "it is a PDF document",
    b"\x93NUMPY": "it is a NumPy array: name a file of torch.save()",
}


def explain(path, error: Exception) -> str:
    """Return, in one line, why `path` can't be read as a checkpoint; error: what reading it raised."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    return _recognize(Path(path), head) or _name_class(path, str(error)) or _suspect_damage(Path(path), head, error)


def _recognize(path: Path, head: bytes) -> str:
    """Return what the file is if it is not a pickle of torch, else ""."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty: copy or download it again"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "it is an HTML page, not weights: open its link in a browser and download the file itself"
    if start.startswith((b"<?xml", b'{"', b"{\n")):
        return "it is text, perhaps a server's error message: download the file again"
    for magic, found in MAGIC.items():
        if head.startswith(magic):
            return found
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return ("it is a safetensors file: convert it with torch.save(safetensors.torch.load_file"
                f'("{path.name}"), "{path.stem}.pth")')
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and b"\x12\x07pytorch" in head[:64]):
        return ("it is an ONNX graph, whose tensors have other names: take the network that it was made from, and save "
                "it with torch.save(model.state_dict(), FILE)")
    if zipfile.is_zipfile(path):
        return _recognize_zip(path)
    return "it is a tar archive: unpack it" if head[257:262] == b"ustar" else ""


def _suspect_damage(path: Path, head: bytes, error: Exception) -> str:
    """Return what is likely for a file of no known kind."""
    if head.startswith(ZIP) and not zipfile.is_zipfile(path):  # the table of contents is at its end
        return "it is cut off: copy or download it again"
    if isinstance(error, zipfile.BadZipFile):
        return f"it is damaged ({error}): copy or download it again"
    if head.startswith((ZIP, b"\x80")):  # of torch since 1.6; the protocol of a pickle
        return ("it is damaged, or holds what is neither a tensor nor a plain value: copy or download it again, or "
                f"save its weights alone with torch.save(model.state_dict(), FILE) ({type(error).__name__})")
    if b"\0" not in head:
        return "it is text: name a file of torch.save()"
    return "it is damaged or no file of torch.save(): copy or download it again"


def _recognize_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("constants.pkl") for name in names):
        return (f'it is a TorchScript program: convert it with torch.save(torch.jit.load("{path.name}").state_dict(), '
                f'"{path.stem}_weights.pth")')
    if any(name.endswith("data.pkl") for name in names):
        return ""
    shown = shorten(", ".join(names[:3]), SHOWN, placeholder=" ...")
    if names and all(name.endswith(".npy") for name in names):
        return f"it is a NumPy archive of {shown}: name a file of torch.save()"
    return f"it is a zip archive of other files ({ascii(shown)[1:-1] or 'empty'}): unpack it, and name a file in it"


def _name_class(path, problem: str) -> str:
    """Return which class in a pickle was refused, and the two statements that convert the file; "" if none was."""
    found = re.search(r"GLOBAL ([\w.]+)", problem)
    if found is None:
        return ""
    name = found[1].removeprefix("builtins.").removeprefix("__builtin__.")  # torch versions differ
    if "." not in name or name.split(".")[0] in NEVER_CLASSES:
        return f"it calls {name}, which could run code, and no checkpoint needs that: don't open it"
    content = _read_pickle(path)
    return (f"it holds the class {name} as a pickle, which could run code: if you trust its source, run in the "
            f'environment that it was made in: m = torch.load("{Path(path).name}", map_location="cpu", '
            f'weights_only=False); torch.save({_find_weights(content, name)}, "weights.pth")')


def _find_weights(content: bytes, name: str) -> str:
    """Return the expression for the weights in `m`, the object that a pickle holds."""
    key, last = None, None
    if content[2:3] != b"}":  # after the protocol: not a dict
        return "m.state_dict()"
    names = set()
    with suppress(ValueError, IndexError):  # damaged from here on
        for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
            if "UNICODE" in opcode.name:
                last = last if argument == "module" and last else argument  # torch marks classes so before 1.6
                names.add(argument)
            elif opcode.name == "GLOBAL" and key is None and argument.replace(" ", ".") == name:
                key = last
    if b"torch.nn.modules" in content and key is not None:
        return f'm["{key}"].state_dict()' if key.isidentifier() else "m[...].state_dict()"
    weights = next((each for each in WEIGHT_KEYS if each in names), None)
    return f'm["{weights}"]' if weights else "{k: v for k, v in m.items() if torch.is_tensor(v)}"


def _read_pickle(path) -> bytes:
    """Return the pickle of the object in a file of torch.save(), of either format."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    with open(path, "rb") as file:
        content = io.BytesIO(file.read(PICKLE_BYTES))
    if b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in content.getvalue()[:32]:  # torch's magic number, then two more pickles
        with suppress(ValueError, IndexError):
            for _ in range(3):
                for _ in pickletools.genops(content):
                    pass
    return content.read()
