"""The tables, figures and files of the experiment's page."""
import json
import tempfile
from pathlib import Path

from experiments.sharpness import analysis, figures
from experiments.sharpness.analysis import ADVERSARIAL, BASELINE
from experiments.sharpness.collect import describe, load_records, pack, unpack
from experiments.sharpness.plan import CONVERGENCE, METHODS, Plan
from utils.errors import UserError
from utils.files import write_atomically
from utils.logging import logger
from utils.text import format_markdown

NAMES = {name: method.title for name, method in METHODS.items()}
PROBES = {"loss": "loss", "sam_gap_0.02": "SAM gap, rho 0.02", "sam_gap_0.1": "SAM gap, rho 0.1",
          "hessian_eigenvalue": "largest Hessian eigenvalue", "gradient_l1": "input gradient, L1",
          "gradient_l2": "input gradient, L2", "margin": "mean margin"}


def write_tables(plan: Plan, folder: Path, results: Path):
    """Write sharpness_camvid.json, its records, its tables (.md) and its figures into `results`."""
    archive = name_archive(plan, results)
    name = archive.name.removesuffix("_records.tar.gz")
    done = pack(plan, folder, archive)
    if not any(network.startswith(f"{BASELINE}-") for network in done):
        raise UserError(f"no network of {BASELINE} is trained and measured in {folder}: run the steps train and attack")
    networks = [network for network in plan.networks() if network.name in done]
    content = {"protocol": {"recipe": [*plan.data, *plan.recipe], "iterations": plan.iterations},
               "networks": [describe(folder, network) for network in networks]}
    write_atomically(results / f"{name}.json", json.dumps(content, indent=1) + "\n")
    text = format_tables(archive)
    write_atomically(results / f"{name}.md", text)
    methods, _ = read_archive(archive)
    figures.draw_all(results, name, methods)
    figures.draw_sheet_of_methods(results / f"{name}_sheet.png", folder, methods)
    logger.info("%s\n%d of %d networks are done; %s.json, .md and _records.tar.gz are in %s", text, len(done),
                len(plan.networks()), name, results)


def name_archive(plan: Plan, results: Path) -> Path:
    """Return the file of the records."""
    return results / f"sharpness_{plan.data[1]}_records.tar.gz"


def read_archive(archive: Path) -> tuple[dict, dict]:
    """Return ({method: {seed: {key: record}}}, {network: its probe}) of pack()'s file."""
    with tempfile.TemporaryDirectory() as place:
        unpack(archive, Path(place))
        names = sorted(path.stem for path in Path(place).glob("*.jsonl"))
        probes = {name: json.loads((Path(place) / name / "probe.json").read_text()) for name in names}
        return analysis.group_by_method({name: load_records(Path(place), name) for name in names}), probes


def format_tables(archive: Path) -> str:
    """Return the page's tables, computed from the records alone."""
    methods, probes = read_archive(archive)
    methods = {name: methods[name] for name in NAMES if name in methods}
    parts = {"Mean IoU in %, mean and standard deviation over networks": format_scores(methods, "mIoU"),
             "Pixel accuracy in %": format_scores(methods, "aAcc"),
             "Mean IoU in % by the steps of race, of each method's first network": format_convergence(methods),
             "Difference to SGD, points of mIoU": format_differences(methods),
             "Difference to SGD at equal clean mIoU, points": format_adjusted(methods),
             "Sharpness and sensitivity": format_probes(methods, probes)}
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in parts.items()) + "\n"


def list_attacks(methods: dict) -> dict[tuple, str]:
    """Return {key: title} of what was measured on all networks of a method, clean first; of all methods together."""
    keys = set().union(*(set.intersection(*map(set, seeds.values())) for seeds in methods.values()))
    order = ("none", "race", "pgd", "square")
    return {key: title_of(key) for key in sorted((key for key in keys if key[0] in order), key=lambda key: (
        key[1] == "l2", order.index(key[0]), key[2]))}


def title_of(key: tuple) -> str:
    """Return a column's title, such as race-30 0.5/255."""
    attack, norm, eps, steps = key
    if attack == "none":
        return "clean"
    return f"{attack}-{steps} " + (f"{255 * eps:g}/255" if norm == "linf" else f"l2 {eps:g}")


def format_scores(methods: dict, what: str) -> str:
    """Return a table with a line per method: a score clean and under each attack.

    Of mIoU also the mean over corruptions and the median of the images' smallest radii.
    """
    columns = {"trained with": [NAMES[name] for name in methods], "networks": [str(len(seeds)) for seeds in
                                                                             methods.values()]}
    for key, title in list_attacks(methods).items():
        columns[title] = [_format_mean([analysis.score(records[key], what) for records in seeds.values()
                                        if key in records]) for seeds in methods.values()]
    if what == "mIoU":
        columns["corruptions, severity 3"] = [_format_mean([analysis.score_corruptions(records)
                                                            for records in seeds.values()])
                                              for seeds in methods.values()]
        columns["smallest radius, /255"] = [_format_mean([analysis.median_radius(records[("min_radius",)])
                                                          for records in seeds.values()], digits=2)
                                            for seeds in methods.values()]
    return format_markdown(columns)


def format_convergence(methods: dict) -> str:
    """Return a table of mIoU against the steps of race, of the networks that were attacked with several numbers."""
    lines = []
    for name in CONVERGENCE:
        races = {key: record for key, record in methods.get(name, {}).get(1, {}).items() if key[:2] == ("race", "linf")}
        for eps in sorted({key[2] for key in races}):
            steps = sorted(key[3] for key in races if key[2] == eps)
            if len(steps) > 1:
                lines.append({"trained with": NAMES[name], "eps": f"{255 * eps:g}/255", **{
                    f"race-{number}": f"{analysis.score(races['race', 'linf', eps, number]):.1f}" for number in steps}})
    return _format_lines(lines)


def format_differences(methods: dict) -> str:
    """Return a table with a line per method and attack: the difference to SGD and its intervals."""
    lines = []
    for name, seeds in methods.items():
        for key, title in list_attacks(methods).items():
            if name != BASELINE and all(key in records for records in [*seeds.values(), *methods[BASELINE].values()]):
                found = analysis.difference(seeds, methods[BASELINE], key)
                lines.append({"trained with": NAMES[name], "attack": title, "difference": f"{100 * found.mean:+.1f}",
                              "95 % bootstrap": _format_interval(found.bootstrap),
                              "95 % t": "-" if found.t is None else _format_interval(found.t)})
    return _format_lines(lines)


def format_adjusted(methods: dict) -> str:
    """Return a table of the differences under race that are left at equal clean mIoU, without adversarial training."""
    plain = {name: seeds for name, seeds in methods.items() if not name.startswith(ADVERSARIAL)}
    columns = {"trained with": [NAMES[name] for name in plain if name != BASELINE]}
    for key, title in list_attacks(plain).items():
        if key[0] in ("race", "pgd") and key[1] == "linf" and all(
                key in records for seeds in plain.values() for records in seeds.values()):
            found = analysis.difference_at_equal_clean({
                name: [analysis.pair(records, key) for records in seeds.values()] for name, seeds in plain.items()})
            columns[title] = [f"{value:+.1f}" + ("" if low is None else f" ({low:+.1f} to {high:+.1f})")
                              for value, low, high in found.values()]
    return format_markdown(columns)


def format_probes(methods: dict, probes: dict) -> str:
    """Return a table with a line per method of what probes.py measured."""
    columns = {"trained with": [NAMES[name] for name in methods]}
    for key, title in PROBES.items():
        columns[title] = [_format_mean([probes[f"{name}-{seed}"][key] for seed in seeds], digits=3)
                          for name, seeds in methods.items()]
    return format_markdown(columns)


def _format_lines(lines: list[dict[str, str]]) -> str:
    return format_markdown({title: [line[title] for line in lines] for title in lines[0]}) if lines else "-"


def _format_mean(values: list, *, digits: int = 1) -> str:
    if not values or None in values:
        return "-"
    found = analysis.summarize(values)
    spread = "" if found["spread"] is None else f" ± {found['spread']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{spread}"


def _format_interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
