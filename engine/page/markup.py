"""HTML and SVG from values: every text is escaped unless it is Markup."""
import re
from html import escape

from utils.text import escape_unprintable, is_undefined

LONGEST = 500  # characters of one text: names and options of strangers may be of any length
FILES = "report.md and report.json"
NUMBER = re.compile(r"[-+\u2212]?\d[^a-zA-Z]*(?: x \d+)?|-|not found")  # a cell that is aligned to the right
VOID = {"input", "img", "meta"}  # elements without an end


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def show(value) -> Markup:
    """Return a value as HTML that displays it: Markup as it is, anything else escaped and not too long."""
    if isinstance(value, Markup):
        return value
    text = escape_unprintable(str(value)[:LONGEST + 1], keep="")
    return Markup(escape(text if len(text) <= LONGEST else text[:LONGEST] + " ..."))


def percent(value: float | None) -> str:
    """Return a score in [0, 1] as percent with two decimals, - if it is undefined."""
    return "-" if is_undefined(value) else f"{100 * value:.2f}"


def subtract(before: float, after: float) -> float:
    """Return the difference of two scores as percent() shows them, so that the three numbers agree."""
    return round(100 * before, 2) - round(100 * after, 2)


def sign(value: float) -> str:
    """Return a difference in percent points with its sign."""
    return write_minus(f"{100 * value:+.2f}")


def write_minus(text: str) -> str:
    """Return a text whose numbers have a minus as wide as the plus, and a plus-minus sign for +-."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", text.replace("+-", "\u00b1"))


def tag(name: str, /, *content, **attributes) -> Markup:
    """Return an element. content: texts and Markup. attributes: class_ is class, aria_label is aria-label; None and
    False leave one out, True gives it no value."""
    given = "".join(f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{show(value)}"')
                    for key, value in attributes.items() if value is not None and value is not False)
    end = "" if name in VOID else f"{''.join(map(show, content))}</{name}>"
    return Markup(f"<{name}{given}>{end}")


def join(*parts) -> Markup:
    """Return parts, texts and Markup, one below the other; without those that are empty."""
    return Markup("\n".join(show(part) for part in parts if part))


def fit(make, items, limit: int, *, of: str, where: str = FILES) -> tuple[list[Markup], Markup]:
    """Return make(item) of the first items, of at most `limit` bytes together, and a note on the rest, or nothing.

    of, where: what the items are and which files have them all, for the note.
    """
    items, kept, size = list(items), [], 0
    for item in items:
        piece = make(item)
        size += len(piece.encode())
        if size > limit:
            return kept, tag("p", f"{len(items) - len(kept)} of {len(items)} {of} are left out to keep this page "
                             f"small; {where} have them all.", class_="note")
        kept.append(piece)
    return kept, Markup()


def table(head, body, *, caption=None, sortable: bool = False, class_: str | None = None) -> Markup:
    """Return a table in a frame that scrolls; head and body: rows and bodies as Markup."""
    inner = join(tag("caption", caption) if caption else "", tag("thead", *head), *body)
    element = tag("table", inner, class_=" ".join(filter(None, [class_, "sortable" if sortable else None])) or None)
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def tabulate(columns: dict[str, list[str]], limit: int, *, caption=None) -> Markup:
    """Return columns {title: cells} as a sortable table of at most `limit` bytes."""
    kinds = ["number" if all(map(NUMBER.fullmatch, cells)) else None for cells in columns.values()]
    head = tag("tr", *(tag("th", title, scope="col", class_=kind) for title, kind in zip(columns, kinds, strict=True)))
    kept, note = fit(lambda cells: tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(
        cells, kinds, strict=True))), zip(*columns.values(), strict=True), limit - len(head), of="lines of this table")
    return join(table([head], [tag("tbody", join(*kept))], caption=caption, sortable=True, class_="wrap"), note)


def details(summary, *content, open_: bool = False, class_: str | None = None) -> Markup:
    """Return content that opens below its summary."""
    return tag("details", tag("summary", summary), join(*content), open_=open_, class_=class_)
