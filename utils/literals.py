"""Values in our own source files, read without importing them: their imports of torch would slow down every error."""
import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def list_registered(file: str, variable: str) -> tuple:
    """Return the keys of a dict literal, or the elements of a tuple, assigned to `variable` in a file."""
    value = _find_value(_parse(file), variable)
    return tuple(map(ast.literal_eval, value.keys if isinstance(value, ast.Dict) else value.elts))


@cache
def read_fact(dataset: str, fact: str):
    """Return a class attribute of a data set of --dataset, or of SegmentationDataset where its own class has none."""
    body = _parse("datasets/__init__.py")
    registry = _find_value(body, "DATASETS")
    name = registry.values[[key.value for key in registry.keys].index(dataset)].id
    module = next(node.module for node in body if isinstance(node, ast.ImportFrom)
                  and name in [alias.name for alias in node.names])
    inside = [node for file in (module, "base") for part in _parse(f"datasets/{file}.py")
              if isinstance(part, ast.ClassDef) for node in part.body]
    return ast.literal_eval(_find_value(inside, fact))


def _parse(file: str) -> list:
    return ast.parse((ROOT / file).read_text(encoding="utf-8")).body


def _find_value(body: list, variable: str):
    return next(node.value for node in body if isinstance(node, ast.Assign) and variable in [
        getattr(name, "id", "") for name in node.targets])
