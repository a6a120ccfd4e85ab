"""docs/flags.md, made from FLAGS:  python docs/make_flags.py > docs/flags.md"""
import sys

from engine.options.declare import ABOUT, EXPORT, PREDICT, REPORT, TEST, TRAIN, VERIFY, Flag
from engine.options.flags import FLAGS
from engine.options.parser import format_help

MODES = {TRAIN: "training", TEST: "`--test_only`", VERIFY: "`--verify`", REPORT: "`--report`", PREDICT: "`predict.py`",
         EXPORT: "`export.py`", ABOUT: "alone"}
SCOPES = {"run": "restored from the checkpoint", "test": "restored when a run continues, not in a test",
          "call": "of this call; the command that continues a run repeats it", "once": "of this call"}
HEAD = """# Flags

Made from the table `FLAGS` in [engine/options](../engine/options/flags.py) by `make docs`.

Each flag has an effect in the modes that its line names; other modes refuse it. Options of training have one in a test
too: they say in results.json how the network was trained. A flag given twice has its last value.
A switch `--x` has an opposite `--no-x`. Numbers are written 0.01, 1e-4, 30e3 or 4/255. What a line doesn't say is
restored from the checkpoint when a run is tested or continued, unless it is given."""


def flags_as_markdown() -> str:
    """Return the page."""
    parts, group = [HEAD], None
    for flag in FLAGS.values():
        if flag.group != group:
            group = flag.group
            parts.append(f"## {group[0].upper()}{group[1:]}")
        parts.append(_entry(flag))
    return "\n\n".join(parts) + "\n"


def _entry(flag: Flag) -> str:
    value = "" if flag.kind is bool else f" {flag.metavar or flag.name.upper()}" + (" ..." if flag.many else "")
    value = f" [{value.strip()}]" if flag.bare else value
    lines = [f"### `--{flag.name}{value}`", f"{_sentence(format_help(flag))}"]
    if flag.choices and flag.metavar is None:
        lines.append(f"One of {', '.join(f'`{choice}`' for choice in flag.choices)}.")
    notes = [f"Modes: {', '.join(MODES[mode] for mode in flag.modes)}."]
    if flag.scope != "run":
        notes.append(f"Kept: {SCOPES[flag.scope]}.")
    if flag.fixed:
        notes.append("A continued run can't change it.")
    return "\n\n".join([lines[0], "\n".join([*lines[1:], " ".join(notes)])])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].replace("|", "\\|") + "."


if __name__ == "__main__":
    sys.stdout.write(flags_as_markdown())
