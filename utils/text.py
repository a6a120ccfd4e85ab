"""Text for terminals, file names, Markdown and JSON; names of files, classes and runs may be untrusted."""
import csv
import io
import math
import re

MAX_NAME_BYTES = 230  # systems allow 255 for a file name, and the endings that are added here take up to 17


def escape_unprintable(text: str, *, keep: str = "\n\t") -> str:
    r"""Return `text` with unprintable characters written as escapes such as \x1b, safe for terminals and encodings.

    These are control characters except those in `keep`, marks that change the writing direction, and surrogates, which
    stand for bytes of file names that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
                   for char in text)


def count_of(number: int, noun: str) -> str:
    """Return "1 mask" or "2 masks"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def format_time(seconds: float) -> str:
    """Return a time as people say it: 8 s, 3 min 20 s, 2 h 5 min; at least 1 s."""
    minutes, rest = divmod(max(round(seconds), 1), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def escape_markdown(text: str) -> str:
    """Return `text` escaped so that Markdown shows it unchanged, without cells, tags, links or code."""
    return re.sub(r"[\\`|\[\]]", r"\\\g<0>", escape_unprintable(text, keep="")).replace("<", "&lt;")


def is_file_name(name: str) -> bool:
    """Return whether a file name can start with `name` without leaving its folder."""
    return 0 < len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES and not set(name) & set("/\\\0")


def format_markdown(columns: dict[str, list[str]]) -> str:
    """Return columns {title: cells} as a Markdown table whose columns are aligned, so that it reads well as text."""
    columns = [[escape_markdown(title), *map(escape_markdown, cells)] for title, cells in columns.items()]
    widths = [max(map(len, column)) for column in columns]
    title, *rows = zip(*columns, strict=True)
    lines = [title, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in lines)


def replace_nan(value):
    """Return `value` (dicts, lists, plain values) with nan as None, because JSON has no nan; keys become strings."""
    if isinstance(value, dict):
        return {str(key): replace_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def format_csv(records: list[dict]) -> str:
    """Return CSV with a head line and a line per record, nothing for None and nan.

    A text that a spreadsheet would take for a formula gets a ' in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _format_cell(value) for key, value in record.items()} for record in records)
    return text.getvalue()


def is_undefined(value) -> bool:
    """Return whether a score is None or nan."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_score(value: float | None) -> str:
    """Return a score with four decimals, - if it is undefined."""
    return "-" if is_undefined(value) else f"{value:.4f}"


def _format_cell(value):
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return "" if is_undefined(value) else value


def format_figure(value) -> str:
    """Return a figure for people: floats with four digits, dicts and lists of figures item by item."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {format_figure(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_figure, value))}]" if value else "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
