"""Packages that only some runs need, imported where they are used."""
from importlib import import_module

from utils.errors import UserError


def import_optional(name: str, *, command: str = "make extras"):
    """Return the module; UserError, naming the command that installs it, where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise UserError(f"{error.name} is not installed: run `{command}`") from None
