"""Names of tensors in files of other programs: wrappers' prefixes, and the backbones' names in torchvision and timm."""
import re
from collections import Counter
from collections.abc import Callable, Iterator

from torch import Tensor

from network.backbone.mobilenetv2 import LOW_LEVEL, STAGES
from utils.logging import logger

State = dict[str, Tensor]
PART = re.compile(r"((?:.*?\.)?)backbone\.")  # what is before the first part called backbone
COPIES = re.compile(r"ema|teacher|shadow|averaged|swa", re.IGNORECASE)  # of a network, beside the one that is trained
MOBILENET_FEATURES = 18  # features.18 and the classifier are not part of the backbone


def strip_prefix(state: State, *, source: str) -> State:
    """Return a network's tensors without what wrappers put before `backbone.` and `classifier.` (module., model., ...).

    A prefix may be nested. Tensors without it, such as a loss's, are left out; of two networks in one file the one that
    is not a moving average is taken. The log says what was left out.
    """
    counts = Counter(match[1] for key in state if (match := PART.match(key)))
    if not counts:
        return state
    most = max(counts.values())
    networks = [prefix for prefix, count in counts.items() if 2 * count > most]
    prefix = min(networks, key=lambda one: bool(COPIES.search(one)))
    others = [other for other in networks if other != prefix and not prefix.startswith(other)]
    kept = {key.removeprefix(prefix): tensor for key, tensor in state.items()
            if key.startswith(prefix) and not any(key.startswith(other) for other in others)}
    if left := [key for key in state if not key.startswith(prefix) or any(map(key.startswith, others))]:
        logger.info("%s: took the tensors named %s*, left out %d others (%s%s)", source, prefix, len(left),
                    ", ".join(left[:2]), ", ..." if len(left) > 2 else "")
    return kept


def list_prefixes(state: State) -> list[str]:
    """Return every prefix of whole name parts that at least a fifth of the tensors share, the empty one first."""
    counts = Counter(key[:place.end()] for key in state for place in re.finditer(r"\.", key))
    return ["", *(prefix for prefix, count in counts.items() if 5 * count >= len(state))]


def read_as_backbone(state: State) -> Iterator[State]:
    """Yield the tensors under every name that a backbone of ours could give them."""
    for prefix in list_prefixes(state):
        part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        for convert in CONVERSIONS:
            yield {new: tensor for key, tensor in part.items() if (new := convert(key))}


def _rename_torchvision_mobilenet(key: str) -> str:
    """Return our name: features.0 to .17 are our two halves, with the same indices."""
    part, *rest = key.split(".")
    if part != "features" or not rest or not rest[0].isdigit() or int(rest[0]) >= MOBILENET_FEATURES:
        return ""
    return ".".join([f"{'low' if int(rest[0]) < LOW_LEVEL else 'high'}_level_features", *rest])


def _rename_timm_mobilenet(key: str) -> str:
    """Return our name for one of timm's mobilenetv2: conv_stem, bn1, blocks.<stage>.<block>.<layer>.<tensor>."""
    first, *rest = key.split(".")
    if first in ("conv_stem", "bn1"):
        return ".".join(["low_level_features", "0", "0" if first == "conv_stem" else "1", *rest])
    if first != "blocks" or len(rest) < 4 or not (rest[0].isdigit() and rest[1].isdigit()):
        return ""
    stage, block, layer, *tensor = rest
    index = 1 + sum(blocks for _, _, blocks, _ in STAGES[:int(stage)]) + int(block)
    places = ({"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"} if int(stage) == 0 else  # no expansion
              {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"})
    if layer not in places:
        return ""
    return _rename_torchvision_mobilenet(".".join(["features", str(index), "conv", places[layer], *tensor]))


def _rename_timm_hrnet(key: str) -> str:
    """Return our name: transitions 2 and 3 are lists there, of which only the last entry has tensors."""
    return re.sub(r"^(transition([23]))\.\2\.0\.", r"\1.", key)


CONVERSIONS: tuple[Callable[[str], str], ...] = (
    str, _rename_torchvision_mobilenet, _rename_timm_mobilenet, _rename_timm_hrnet)
