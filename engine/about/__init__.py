"""What this program has (--list) and where it runs (--version), told without a run.

    catalogue.py   the stored numbers of networks, data sets, attacks, losses, corruptions
    tables.py      --list: a table of them     versions.py   --version
"""
import sys

from engine.about.tables import PAGES, format_table, list_rows


def answer(listed: str | None = None, *, version: bool = False) -> dict:
    """Write what --version and --list ask for to stdout; return it: {"version": {...}, "rows": {name: {...}}}.

    listed: a name in catalogue.TABLES. Without `version` torch is not imported, so a table is there at once.
    """
    found = {}
    if version:
        from engine.about.versions import find_versions  # here, as this imports torch

        found["version"] = find_versions()
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in found["version"].items()))
    if listed:
        found["rows"] = list_rows(listed)
        sys.stdout.write("\n" * version + f"{format_table(listed)}\n{PAGES[listed]}\n")
    return found
