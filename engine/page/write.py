"""From a report's content to its page: the sections in order, in one file that loads nothing."""
import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from string import Template

from engine.page.answer import list_terms, make_answer
from engine.page.chart import draw_chart, make_charts, make_legend
from engine.page.classes import get_key, make_classes
from engine.page.markup import Markup, fit, join, show, tabulate, tag, write_minus
from engine.page.pictures import find_colours, make_sheets
from engine.page.runs import describe_runs, loses_in_rounding, make_findings, make_options
from engine.page.tables import explain_scores, list_members, make_scores, name_worst_cases
from engine.records.corruptions import is_corruption
from engine.records.rows import WORST
from utils.text import count_of
from utils.version import VERSION

FOLDER = Path(__file__).parent
MIOU, WITHIN = "mIoU (%)", "images within eps (%)"
LIMIT, MOST_PICTURES = 9_800_000, 5_000_000  # bytes
PICTURES = "Pictures"
NAMED = 3  # runs in the title
CHART_LIMIT = 300_000
NAME = "Robust segmentation"
NO_CURVES = "Corruptions have no curves: their scores are in the table above."
RADIUS = ("The smallest eps found at which an attack makes this share of an image's pixels wrong (column 'Wrong'). "
          "Larger means more robust.")
NO_PICTURES = "These runs have no pictures of these records; --sheet_images or --save_val_results write them."


@dataclass
class Content:
    """What a page shows, as the report has it.

    images: the number in all records; recorded: that in the largest. lines: of align_rows(); strongest: of
    find_strongest(); members: {group: runs}; subjects: {run: what its records are of}; cost, groups: columns of tables,
    and radii a list of them; legend: of groups, a Markdown list; panels, radius_panels: curves; folders: {run: folder};
    sheets: pictures.
    """

    images: int
    recorded: int
    lines: list[dict]
    strongest: list[dict]
    members: dict[str, list[str]]
    subjects: dict[str, dict]
    cost: dict[str, list[str]]
    groups: dict[str, list[str]] | None
    radii: list[dict[str, list[str]]]
    legend: str
    panels: list
    radius_panels: list
    folders: dict[str, Path]
    sheets: list = field(default_factory=list)

    @property
    def runs(self) -> list[str]:
        """Return the names of the runs."""
        return list(self.folders)


def make_page(content: Content) -> str:
    """Return the page, of less than LIMIT bytes. Equal content gives equal text."""
    style, script = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    lines, strongest, panels = name_worst_cases(content.lines, content.strongest, content.panels)
    content = replace(content, lines=lines, strongest=strongest)
    panels = sorted(panels, key=lambda panel: not panel.title.startswith(WORST))
    answer, sections = _make_top(content, panels), _list_sections(content, panels)
    room = LIMIT - len(style + script) - sum(len(each.encode()) for each in (answer, *sections.values()))
    classes = list(next(iter(lines[0]["rows"].values()))["Class IoU"])
    colours = find_colours(content.folders, content.subjects, classes)
    sections[PICTURES] = make_sheets(content.sheets, limit=min(room, MOST_PICTURES), colours=colours) or tag(
        "p", NO_PICTURES)
    whole = {title: body for title, body in sections.items() if body}
    anchors = {title: title.split()[0].strip(":").lower() for title in whole}
    title = ", ".join(content.runs[:NAMED])
    more = len(content.runs) - NAMED
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        style=style, script=script, policy=show(_make_policy(style, script)), answer=answer,
        title=show(f"Robustness of {title}" + (f" and {more} more" if more > 0 else "")), facts=_state_facts(content),
        links=join(*(tag("a", name, href=f"#{anchors[name]}") for name in whole)),
        sections=join(*(tag("section", tag("h2", name), body, id=anchors[name]) for name, body in whole.items())))


def _make_policy(style: str, script: str) -> str:
    """Return a policy under which the browser loads nothing, and runs this style and this script alone."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
            "base-uri 'none'; form-action 'none'")


def _state_facts(content: Content) -> Markup:
    some = (f"Only {content.images} of {content.recorded} images were evaluated under every attack in every run; every "
            f"figure is over these {content.images}.") if content.images < content.recorded else ""
    rounding = ("An eps below 1/255 is less than a step of an 8-bit image: such an attack is lost when the image is "
                "saved with 8 bits.") if loses_in_rounding(content.lines) else ""
    notes = [tag("p", note, class_="note") for note in (some, rounding) if note]
    first = next(iter(content.subjects.values()))
    of = f" of {first['dataset']}" if isinstance(first.get("dataset"), str) else ""
    counts = f"{count_of(len(content.runs), 'run')}, {count_of(content.images, 'image')}{of}."
    return join(tag("p", f"{counts} {describe_runs(content.folders, content.subjects)}", class_="facts"), *notes)


def _make_top(content: Content, panels: list) -> Markup:
    answer = make_answer(content.strongest, content.runs, members=content.members)
    used = [run for run in content.runs if run in panels[0].curves]
    chart = draw_chart(panels[0], panels[:1], content.runs, ylabel=MIOU, value="mIoU")
    shown = [make_legend(used, content.runs), chart] if len(chart) <= CHART_LIMIT else []
    aside = tag("aside", *shown, tag("h2", "How to read this"), make_list(list_terms(
        content.lines, content.strongest, groups=bool(content.groups))))
    return tag("div", tag("div", answer), aside, class_="top")


def _list_sections(content: Content, panels: list) -> dict[str, Markup]:
    """Return {title: body} of the sections; a body may be empty. That of the pictures is: they take the room left."""
    runs, first = content.runs, [get_key(line) for line in content.strongest if line["norm"] != "-"]
    members = list_members(content.lines)
    return {
        "Groups of runs": _make_groups(content),
        "What each class loses": make_classes(content.lines, runs, first=first),
        "Scores": join(make_scores(content.lines, runs, strongest=first),
                       make_list(explain_scores(content.lines))),
        "Curves": join(make_charts(panels, runs, ylabel=MIOU, value="mIoU", skip=1), tag("p", NO_CURVES) if any(
            map(is_corruption, content.lines)) else ""),
        "Smallest radius": _make_radii(content),
        PICTURES: Markup(),
        "Options": make_options(content.folders, content.subjects),
        "Verify: can attacks be trusted?": make_findings(content.folders),
        "Cost": join(tabulate(content.cost, LIMIT // 25, caption="Forward + backward passes per image"),
                     tag("h3", "Attacks in each worst case") if members else "", members),
        "How to cite": cite(content.images),
    }


def _make_groups(content: Content) -> Markup:
    if not content.groups:
        return Markup()
    members = "; ".join(f"{name}: {', '.join(runs)}" for name, runs in content.members.items())
    legend = write_minus(content.legend).removeprefix("- ").split("\n- ")
    columns = {title: list(map(write_minus, cells)) if title.startswith(("mIoU", "aAcc")) else cells
               for title, cells in content.groups.items()}
    return join(tag("p", members), tabulate(columns, LIMIT // 12), make_list(legend))


def _make_radii(content: Content) -> Markup:
    if not content.radii:
        return Markup()
    tables, note = fit(lambda columns: tabulate(columns, LIMIT // 20), content.radii, LIMIT // 20, of="tables")
    return join(tag("p", RADIUS), *tables, note,
                make_charts(content.radius_panels, content.runs, ylabel=WITHIN, value="images within it"))


def make_list(items: list[str]) -> Markup:
    """Return texts as a list."""
    return tag("ul", *(tag("li", " ".join(item.split())) for item in items), class_="small")


def cite(images: int) -> Markup:
    """Return what to write where these figures are used."""
    title, version, year, author = (_read_citation(key) for key in ("title", "version", "date-released", "  - name"))
    title, version, year = title or NAME, version or VERSION, year[:4]
    author = author or f"{NAME} contributors"
    bibtex = "\n".join(filter(None, [
        "@software{robust_segmentation,", f"  author = {{{{{author}}}}},", f"  title = {{{title}}},",
        f"  version = {{{version}}},",
        f"  year = {{{year}}}," if year else "", "}"]))
    return join(
        tag("p", f"{author}{f' ({year})' if year else ''}: {title}, version {version}. Software.", class_="cite"),
        Markup(f"<pre>{escape(bibtex)}</pre>"),
        tag("p", "When you quote a number, name the attack, its norm, eps and steps, and the number of images "
            f"({images} here). A stronger attack may lower the mIoU further."))


def _read_citation(key: str) -> str:
    """Return a value of CITATION.cff, "" if the file, which an installed package lacks, or the key is missing."""
    path = FOLDER.parents[1] / "CITATION.cff"
    found = re.search(rf"^{key}: *(.+)$", path.read_text(encoding="utf-8") if path.is_file() else "", re.MULTILINE)
    return found[1].strip("\"' ") if found else ""
