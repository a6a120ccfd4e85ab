"""A network of the user's own, --model path/to/file.py:function, behind the normalisation that all networks have."""
import torch
from torch import Tensor, nn

from network.backbone import IMAGENET
from network.normalized import NormalizedModel
from utils.device import device_of
from utils.errors import UserError
from utils.logging import logger
from utils.memory import is_out_of_memory
from utils.modes import eval_mode
from utils.user_code import describe_error, hash_code, load_function, split_name

# What a network may raise for a size that it can't take, for example in a concatenation.
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)


class CustomModel(NormalizedModel):
    """A NormalizedModel of any network that returns logits [B, num_classes, H, W], or a dict with them as "out".

    name: the network's, for errors; code: a hash of the file that it is from. Raises UserError, saying what is
    wrong, if the network fails on these images or returns anything else.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float], *, name: str, num_classes: int,
                 code: str | None = None):
        super().__init__(model, mean, std)
        self.name, self.num_classes, self.code = name, num_classes, code

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, run the network, and check its logits."""
        try:
            logits = super().forward(images)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise UserError(f"--model {self.name} fails on images of {_format_size(images)} (height x width): "
                            f"{describe_error(error, split_name(self.name)[0])} (docs/python.md#sizes)") from error
        if isinstance(logits, dict) and "out" in logits:
            logits = logits["out"]
        self._check(logits, images)
        return logits

    def _check(self, logits, images: Tensor):
        says = f"--model {self.name} must return logits [B, {self.num_classes}, H, W] or a dict with them as 'out'"
        if not isinstance(logits, Tensor) or logits.ndim != 4 or not logits.is_floating_point():
            found = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"{says}: it returned {found} (docs/python.md#any-network-on-the-command-line)")
        if logits.shape[:2] != (images.shape[0], self.num_classes):  # len() would be a constant in exports
            raise UserError(f"{says}: it returned {list(logits.shape)} for {len(images)} images and {self.num_classes} "
                            "classes; its function must use num_classes")
        if logits.shape[2:] != images.shape[2:]:
            raise UserError(f"--model {self.name} returned logits of {_format_size(logits)} for images of "
                            f"{_format_size(images)}: resize them to the images' size in its forward() "
                            "(docs/python.md#sizes)")


def build_custom(name: str, *, num_classes: int) -> CustomModel:
    """Run the file in `name`, path/to/file.py:function, and return function(num_classes=...) with its normalisation.

    The normalisation is the module's attribute `normalization`, {"mean": [3 floats], "std": [3 floats]}, else
    ImageNet's. Raises UserError if the file or the function fails or doesn't return a module with parameters.
    """
    function = load_function(name)
    try:
        module = function(num_classes=num_classes)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"--model {name} can't be built with num_classes={num_classes}: "
                        f"{describe_error(error, split_name(name)[0])}") from error
    if not isinstance(module, nn.Module) or not any(parameter.requires_grad for parameter in module.parameters()):
        raise UserError(f"--model {name} returned {type(module).__name__}, not a torch.nn.Module with parameters to "
                        "train")
    normalization = getattr(module, "normalization", IMAGENET)
    try:
        return CustomModel(module, **normalization, name=name, num_classes=num_classes, code=hash_code(name))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"--model {name}: invalid attribute normalization ({error})") from None


def check_custom(model: CustomModel, height: int, width: int):
    """Try the network on one image of this size; freeze the parameters that the logits don't depend on, and log them.

    Weight decay would shrink those, and torchrun wait for their gradients forever. Raises UserError if the network
    fails, returns other logits, or gives no gradient with respect to the image, which attacks need.
    """
    images = torch.linspace(0, 1, 3 * height * width, device=device_of(model)).view(1, 3, height, width)
    images.requires_grad_(True)
    trained = {key: parameter for key, parameter in model.model.named_parameters() if parameter.requires_grad}
    with eval_mode(model), torch.enable_grad():
        logits = model(images)
        gradients = torch.autograd.grad(logits.sum(), [images, *trained.values()], allow_unused=True) \
            if logits.requires_grad else [None]
    if gradients[0] is None:
        raise UserError(f"--model {model.name}: its logits have no gradient with respect to the images, which attacks "
                        "need: remove no_grad() or detach() from its forward()")
    unused = [key for key, gradient in zip(trained, gradients[1:], strict=True) if gradient is None]
    for key in unused:
        trained[key].requires_grad_(False)
    if unused:
        logger.info("--model %s: the logits don't depend on %d of its parameters (%s%s), which stay as they are",
                    model.name, len(unused), ", ".join(unused[:3]), ", ..." if len(unused) > 3 else "")


def _format_size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[-2:]))
