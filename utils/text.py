"""Text that a stranger may have written (names of files, classes and runs), made fit to be shown."""
import re

MOST_BYTES = 230  # of a name that a file's begins with: systems take 255, and pictures' endings have up to 17


def printable(text: str, *, keep: str = "\n\t") -> str:
    r"""`text` with what can't be seen written out, as \x1b: no terminal obeys it, and any encoding holds it.

    That is control characters but those in `keep`, marks that turn the direction of writing, and the stand-ins for
    bytes of file names that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
                   for char in text)


def plain(text: str) -> str:
    """Text that stays text in Markdown: no cell, tag, link or code begins or ends in it."""
    return re.sub(r"[\\`|\[\]]", r"\\\g<0>", printable(text, keep="")).replace("<", "&lt;")


def is_file_name(name: str) -> bool:
    """Whether a file's name can begin with this one, and stays in its folder."""
    return 0 < len(name.encode(errors="surrogatepass")) <= MOST_BYTES and not set(name) & set("/\\\0")
