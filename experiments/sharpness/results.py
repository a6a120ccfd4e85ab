"""What is written of the networks that are done: figures of each, records, tables and pictures."""
import json
import re
from pathlib import Path

from experiments.sharpness import differences, figures, tables
from experiments.sharpness.analysis import BASELINE
from experiments.sharpness.collect import describe, pack
from experiments.sharpness.plan import PLANS, Plan
from utils.errors import UserError
from utils.files import write_atomically
from utils.logging import logger


def write_results(plan: Plan, folder: Path, results: Path, *, page: Path | None = None):
    """Write <name>.json and <name>_records.tar.gz into `results`, then the tables and pictures.

    Without a page tables (<name>.md) and pictures stand beside them. With a page, its tables are made new (fill()), and
    the pictures stand in the folder img beside its folder.
    """
    text = page.read_text() if page else ""
    archive = name_archive(plan, results)
    name = archive.name.removesuffix("_records.tar.gz")
    done = pack(plan, folder, archive)
    if not any(network.startswith(f"{BASELINE}-") for network in done):
        raise UserError(f"no network of {BASELINE} is trained and measured in {folder}: run the steps train and attack")
    networks = [network for network in plan.networks() if network.name in done]
    content = {"protocol": {"recipe": [*plan.data, *plan.recipe], "iterations": plan.iterations},
               "networks": [describe(folder, network) for network in networks]}
    write_atomically(results / f"{name}.json", json.dumps(content, indent=1) + "\n")
    made = make_tables(archive)
    write_atomically(page or results / f"{name}.md",
                     fill(text, collect_tables(results)) if page else format_tables(made))
    methods, _ = tables.read_archive(archive)
    pictures = page.parent.parent / "img" if page else results
    figures.draw_all(pictures, name, methods)
    figures.draw_sheet_of_methods(pictures / f"{name}_sheet.png", folder, methods)
    logger.info("%s\n%d of %d networks are done; %s.json and _records.tar.gz are in %s, the tables in %s",
                format_tables(made), len(done), len(plan.networks()), name, results, page or f"{name}.md there")


def make_tables(archive: Path) -> dict[str, str]:
    """Return {title: table} of all tables, a line per method in each."""
    methods, files = tables.read_archive(archive)
    attacks = tables.list_attacks(methods)
    race = {key: title for key, title in attacks.items() if key[:2] == ("race", "linf")}
    return {
        "Mean IoU under race, in %": tables.format_scores(methods, race),
        "Mean IoU under other attacks, in %": tables.format_others(methods, {
            key: title for key, title in attacks.items() if key not in race}),
        "Pixel accuracy, in %": tables.format_scores(methods, attacks, "aAcc"),
        **{f"Difference to {name} and 95 % {interval} interval, in points of mIoU": differences.format_differences(
            methods, attacks, interval, baseline=baseline)
            for baseline, name in (("sgd", "SGD"), ("sgd_twice", "SGD of twice the iterations"))
            for interval in ("bootstrap", "t")},
        "Difference to SGD at equal clean mIoU and 95 % t interval, in points": differences.format_adjusted(methods),
        "Smallest true difference to SGD that is found in 4 of 5 such experiments, in points":
            differences.format_detectable(methods, attacks),
        "Mean IoU by the steps of race, in %": tables.format_convergence(methods),
        "Pixel accuracy / mean IoU under race and APGD, in %": tables.format_stronger(methods),
        "Sharpness and sensitivity": tables.format_probes(methods, files),
        "Checks of verify that failed": tables.format_failures(methods, files)}


def collect_tables(results: Path) -> dict[str, str]:
    """Return {title: table} of all that a page can hold, from the files in `results` alone.

    Titles begin with the plan's name, except those of the first plan.
    """
    found = {}
    for place, plan in enumerate(PLANS.values()):
        if (archive := name_archive(plan, results)).exists():
            found |= {f"{plan.name}: {title}" if place else title: table
                      for title, table in make_tables(archive).items()}
    if (lengths := results / "sharpness_length.json").exists():
        found["Mean IoU by the length of training, in %"] = tables.format_lengths(json.loads(lengths.read_text()))
    return found


def name_archive(plan: Plan, results: Path) -> Path:
    """Return the file of the records."""
    return results / f"sharpness_{plan.name}_records.tar.gz"


def format_tables(made: dict[str, str]) -> str:
    """Return the tables with their titles, as Markdown."""
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in made.items()) + "\n"


def fill(page: str, made: dict[str, str]) -> str:
    """Return a page with the tables between its lines `<!-- table: TITLE -->` and `<!-- end -->` made new.

    Raises UserError if it has a table of another title, or no table.
    """
    def renew(found: re.Match) -> str:
        if found[1] not in made:
            raise UserError(f"the page asks for a table that does not exist: {found[1]} (there are: "
                            f"{'; '.join(made)})")
        return f"<!-- table: {found[1]} -->\n{made[found[1]]}\n<!-- end -->"

    filled, count = re.subn(r"<!-- table: (.*?) -->\n.*?<!-- end -->", renew, page, flags=re.DOTALL)
    if not count:
        raise UserError("the page has no line such as <!-- table: Pixel accuracy in % -->, with <!-- end --> after it")
    return filled
