"""Text for terminals, file names, Markdown and JSON; names of files, classes and runs may be untrusted."""
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
