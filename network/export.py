"""A network as a file that runs without this program: ONNX, or PyTorch's own archive (torch.export).

What is in the file takes `image` [B, 3, H, W] in [0, 1], normalises it and returns `logits` [B, C, H, W].

    trace() -> a program    encode() -> the file's content    compare() -> how far it is from the network
"""
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from network.export_operations import Rewritten
from utils.divergence import refuse_diverged
from utils.errors import UserError
from utils.memory import is_out_of_memory
from utils.modes import eval_mode
from utils.optional import import_optional

BOUND = 1e-4  # of the largest logit: float32 sums in another order differ by less
OPSET = 18  # of ONNX
OLDEST_TORCH = "2.9"  # older ones fail, take images that are too small, or write paths of source files
MOST_BYTES = 2**31 - 2**24  # an ONNX file has less than 2 GiB: weights, and some room for the rest
EXAMPLE = (2, 97, 129)  # batch, height, width, as traced: equal ones would be taken for one number
# Compared: sides that leave other rests than the traced ones when halved, odd and even, a batch of 1 and of 2, and
# features wider than the largest dilation at stride 8, which is 36.
SIZES = ((1, 187, 311), (2, 262, 223))
PARTS, METADATA = (5, 7), "metadata.json"  # coloured patches of an image; the file in the archive of torch.export
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Format:
    """A kind of file: the packages it needs, how a program is encoded, how the content is opened to be run."""

    packages: tuple[str, ...]
    encode: Callable[[ExportedProgram, dict[str, str]], bytes]
    open: Callable[[bytes], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Difference:
    """The largest difference between logits of the file and of the network, for images of one size."""

    size: Size
    largest_logit: float
    difference: float

    @property
    def share(self) -> float:
        """Return the difference as a share of the largest logit."""
        return self.difference / max(self.largest_logit, torch.finfo(torch.float32).tiny)

    @property
    def is_small(self) -> bool:
        """Return whether the share is within BOUND; nan is not."""
        return self.share <= BOUND

    def __str__(self) -> str:
        return (f"{self.share:.1e} of the largest logit, {self.largest_logit:.4g}, at "
                f"{'x'.join(map(str, self.size))} (batch x height x width)")


class _Named(nn.Module):
    """The model with the argument's name that the file has."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


def load_packages(format: str):
    """Raise UserError, naming the remedy, for a torch that is too old or a missing package that the format needs."""
    if torch.__version__ < OLDEST_TORCH:  # a TorchVersion, which compares numbers
        raise UserError(f"--format {format}: torch {torch.__version__} is too old: export with {OLDEST_TORCH} or later")
    for package in FORMATS[format].packages:
        import_optional(package)


def check_weights(model: nn.Module, *, format: str):
    """Raise UserError for weights that are too large for one file of this format."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if format == "onnx" and size > MOST_BYTES:
        raise UserError(f"--format onnx: {size / 1e9:.1f} GB of weights, not under 2 GiB: give --format torch_export")


def trace(model: nn.Module, *, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Return the model in eval mode as a program for any batch, and for any height and width unless `size` fixes them.

    model: images [B, 3, H, W] in [0, 1] -> logits [B, C, H, W]. Raises UserError if it can't be traced.
    """
    batch, height, width = (EXAMPLE[0], *size) if size else EXAMPLE
    dynamic = {0: Dim.DYNAMIC} if size else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    remedy = "give a size that it takes" if size else "give --height and --width to fix the size"
    with eval_mode(model), explained("the network can't be exported", remedy), Rewritten():
        program = torch.export.export(_Named(model).eval(), (torch.rand(batch, 3, height, width),),
                                      dynamic_shapes={"image": dynamic})
    for node in program.graph.nodes:  # the paths of source files, which a file for others must not hold
        node.meta.pop("stack_trace", None)
    return program


def find_smallest_size(program: ExportedProgram) -> tuple[int, int]:
    """Return the smallest height and width, equal ones unless they are fixed, that the program takes."""
    (image,) = (node.meta["val"] for node in program.graph.nodes
                if node.op == "placeholder" and node.name in program.graph_signature.user_inputs)
    if all(isinstance(side, int) for side in image.shape[2:]):
        return tuple(image.shape[2:])
    run, lowest = program.module(), int(program.range_constraints[image.shape[2].node.expr].lower)
    for side in range(lowest, min(EXAMPLE[1:])):  # there are conditions that no range says
        with suppress(AssertionError, RuntimeError), torch.no_grad():
            run(torch.zeros(1, 3, side, side))
            return side, side
    return EXAMPLE[1:]


def encode(program: ExportedProgram, *, format: str, metadata: dict[str, str]) -> bytes:
    """Return the content of a file with the program and the metadata."""
    with explained(f"--format {format}: the network can't be written", "give the other format"), \
            warnings.catch_warnings(action="ignore"):  # torch's, of its own calls
        return FORMATS[format].encode(program, metadata)


def compare(content: bytes, model: nn.Module, *, format: str, sizes: Iterable[Size] = SIZES) -> Iterator[Difference]:
    """Yield the Difference between the file and the model in eval mode at each size.

    Raises UserError if the file can't be run, and FloatingPointError for a model whose logits are not finite.
    """
    with explained(f"--format {format}: what would be written can't be run", "give the other format"), \
            warnings.catch_warnings(action="ignore"):
        run = FORMATS[format].open(content)
    for size in sizes:
        images = draw_patches(size)
        with eval_mode(model), torch.no_grad():
            expected = model(images)
            refuse_diverged(expected)
            with explained(f"--format {format}: what would be written fails at {size}", "give --height and --width"):
                found = run(images)
        difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
        yield Difference(size, expected.abs().max().item(), difference)


def draw_patches(size: Size, *, seed: int = 0) -> Tensor:
    """Return images [B, 3, H, W] of random coloured patches, which change the logits more than noise does."""
    return F.interpolate(torch.rand(size[0], 3, *PARTS, generator=torch.Generator().manual_seed(seed)), size=size[1:])


def _encode_onnx(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, input_names=["image"],
                                 output_names=["logits"], external_data=False, verbose=False)
    proto = exported.model_proto
    import_optional("onnx").helper.set_model_props(proto, metadata)
    image, logits = (value.type.tensor_type.shape.dim for value in (*proto.graph.input, *proto.graph.output))
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        for shape in (image, logits):
            if shape[axis].dim_param:  # torch's own symbol
                shape[axis].dim_param = name
    return proto.SerializeToString()


def _open_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    onnxruntime = import_optional("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])


def _encode_archive(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    torch.export.save(program, stream := io.BytesIO(), extra_files={METADATA: json.dumps(metadata)})
    return stream.getvalue()


def _open_archive(content: bytes) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


FORMATS = {
    "onnx": Format(("onnx", "onnxscript", "onnxruntime"), _encode_onnx, _open_onnx),
    "torch_export": Format((), _encode_archive, _open_archive),
}


@contextmanager
def explained(what: str, remedy: str):
    """Turn an error of torch, onnxruntime or the network in the block into a UserError of one line."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{what} ({why[:300]}): {remedy}") from error
