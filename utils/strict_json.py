"""JSON in one form: equal values give equal text, and what only looks like JSON is refused."""
import json


def canonical(value) -> str:
    """Return JSON in one form, arrays and tensors as lists. Raises ValueError for nan and inf, which JSON lacks."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), default=lambda item: item.tolist())


def parse(raw: bytes):
    """Return the value. Raises ValueError for invalid JSON and repeated keys, RecursionError for too many levels."""
    return json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats)


def is_shallow(value, *, levels: int = 8) -> bool:
    """Return whether a value has at most so many levels of lists and dicts."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_shallow(item, levels=levels - 1) for item in inner)


def _refuse_constant(text: str):
    raise ValueError(f"{text} is not JSON")


def _refuse_repeats(pairs: list[tuple]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is repeated")
    return found
