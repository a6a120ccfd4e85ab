"""From a report's content to its page: the sections in order, in one file that loads nothing."""
import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from engine.page.answer import make_answer
from engine.page.chart import draw_chart, make_charts, make_legend
from engine.page.classes import get_key, make_classes
from engine.page.markup import Markup, join, show, tabulate, tag
from engine.page.pictures import make_sheets
from engine.page.runs import make_findings, make_options
from engine.page.tables import LIMIT, list_members, make_scores
from engine.records.rows import WORST
from utils.version import VERSION

FOLDER = Path(__file__).parent
MIOU, WITHIN = "mIoU (%)", "images with a radius of at most eps (%)"
NAMED = 3  # runs in the title
CHART_LIMIT = 400_000
NO_PICTURES = "These runs have no pictures of these records; --sheet_images or --save_val_results write them."


@dataclass
class Content:
    """What a page shows, as the report has it.

    lines: of align_rows(); strongest: of find_strongest(); members: {group: runs}; subjects: {run: what its records are
    of}; cost, groups: columns of tables, and radii a list of them; legends: {"scores", "groups"}, Markdown lists;
    panels, radius_panels: curves; folders: {run: folder}; sheets: pictures.
    """

    images: int
    note: str
    lines: list[dict]
    strongest: list[dict]
    members: dict[str, list[str]]
    subjects: dict[str, dict]
    cost: dict[str, list[str]]
    groups: dict[str, list[str]] | None
    radii: list[dict[str, list[str]]]
    legends: dict[str, str]
    panels: list
    radius_panels: list
    folders: dict[str, Path]
    sheets: list = field(default_factory=list)

    @property
    def runs(self) -> list[str]:
        """Return the names of the runs."""
        return list(self.folders)


def make_page(content: Content) -> str:
    """Return the page. Equal content gives equal text."""
    style, script = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    panels = sorted(content.panels, key=lambda panel: not panel.title.startswith(WORST))
    sections = [(anchor, title, body) for anchor, title, body in _list_sections(content, panels) if body]
    title = ", ".join(content.runs[:NAMED])
    more = len(content.runs) - NAMED
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        style=style, script=script, policy=show(_make_policy(style, script)), answer=_make_top(content, panels),
        title=show(f"Robustness of {title}" + (f" and {more} more" if more > 0 else "")), facts=_state_facts(content),
        links=join(*(tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections)),
        sections=join(*(tag("section", tag("h2", name), body, id=anchor) for anchor, name, body in sections)))


def _make_policy(style: str, script: str) -> str:
    """Return a policy under which the browser loads nothing, and runs this style and this script alone."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
            "base-uri 'none'; form-action 'none'")


def _state_facts(content: Content) -> Markup:
    note = [tag("p", f"Note: {content.note}.", class_="note")] if content.note else []
    first = next(iter(content.subjects.values()))
    of = f" of {first['dataset']}" if isinstance(first.get("dataset"), str) else ""
    number = f"{len(content.runs)} run{'s' * (len(content.runs) > 1)}, {content.images} image"
    return join(tag("p", f"{number}{'s' * (content.images > 1)}{of}.", class_="facts"), *note)


def _make_top(content: Content, panels: list) -> Markup:
    answer = make_answer(content.strongest, content.runs, members=content.members)
    used = [run for run in content.runs if run in panels[0].curves]
    chart = draw_chart(panels[0], panels[:1], content.runs, ylabel=MIOU, value="mIoU")
    if len(chart) > CHART_LIMIT:
        return answer
    return tag("div", tag("div", answer), tag("aside", make_legend(used, content.runs), chart), class_="top")


def _list_sections(content: Content, panels: list) -> list[tuple[str, str, Markup]]:
    """Return (anchor, title, body) of each section; a body may be empty."""
    runs, first = content.runs, [get_key(line) for line in content.strongest if line["norm"] != "-"]
    groups = join(tag("p", show("; ".join(f"{name}: {', '.join(of)}" for name, of in content.members.items()))),
                  tabulate(content.groups, LIMIT), make_list(content.legends["groups"])) if content.groups else ""
    radii = join(*(tabulate(columns, LIMIT // 4) for columns in content.radii), make_charts(
        content.radius_panels, runs, ylabel=WITHIN, value="images within it") if content.radii else "")
    return [
        ("groups", "Groups of runs", groups),
        ("classes", "What each class loses", make_classes(content.lines, runs, first=first)),
        ("scores", "All scores", join(make_scores(content.lines, runs), make_list(content.legends["scores"]))),
        ("curves", "Curves", make_charts(panels, runs, ylabel=MIOU, value="mIoU", skip=1)),
        ("radii", "Smallest radius", radii),
        ("pictures", "Pictures", make_sheets(content.sheets) or tag("p", NO_PICTURES)),
        ("options", "Options", make_options(content.folders, content.subjects)),
        ("verify", "Can these attacks be trusted?", make_findings(content.folders)),
        ("cost", "Cost and members", join(
            tabulate(content.cost, LIMIT // 2, caption="Forward + backward passes per image"),
            tag("h3", "Members of the unions") if (members := list_members(content.lines)) else "", members)),
        ("cite", "How to cite", cite(content.images)),
    ]


def make_list(markdown: str) -> Markup:
    """Return a Markdown list of plain texts as HTML."""
    items = markdown.removeprefix("- ").split("\n- ")
    return tag("ul", *(tag("li", " ".join(item.split())) for item in items), class_="small")


def cite(images: int) -> Markup:
    """Return what to write where these figures are used."""
    return join(
        tag("p", f"robust-segmentation, version {VERSION}: How robust is my segmentation network, and does SAM make it "
            "more so? Software, MIT license.", class_="cite"),
        tag("p", "Beside a figure of this page name the attack, its norm, eps and steps, and the number of images "
            f"({images} here). It is what an attack of these records leaves: a stronger one may leave less."))
