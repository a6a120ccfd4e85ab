"""The tables of the experiment, each computed from the records alone."""
import json
import tempfile
from pathlib import Path

from experiments.sharpness import analysis
from experiments.sharpness.analysis import CLEAN
from experiments.sharpness.collect import load_records, unpack
from experiments.sharpness.plan import METHODS
from utils.text import format_markdown

NAMES = {name: method.title for name, method in METHODS.items()}
PROBES = {"loss": "loss", "sam_gap_0.02": "SAM gap, rho 0.02", "sam_gap_0.1": "SAM gap, rho 0.1",
          "hessian_eigenvalue": "largest Hessian eigenvalue", "gradient_l1": "input gradient, L1",
          "gradient_l2": "input gradient, L2", "margin": "mean margin"}


def read_archive(archive: Path) -> tuple[dict, dict]:
    """Return ({method: {seed: {key: record}}}, {network: {"verify" or "probe": its file}}) of pack()'s file.

    Methods are in the plan's order.
    """
    with tempfile.TemporaryDirectory() as place:
        unpack(archive, Path(place))
        names = sorted(path.stem for path in Path(place).glob("*.jsonl"))
        files = {name: {path.stem: json.loads(path.read_text()) for path in (Path(place) / name).glob("*.json")}
                 for name in names}
        methods = analysis.group_by_method({name: load_records(Path(place), name) for name in names})
    return {name: methods[name] for name in NAMES if name in methods}, files


def list_attacks(methods: dict) -> dict[tuple, str]:
    """Return {key: title} of the attacks that all networks of some method have, with each method's number of steps."""
    found = {}
    for attack, norm in (("race", "linf"), ("pgd", "linf"), ("race", "l2"), ("square", "linf")):
        radii = set().union(*(analysis.list_radii([*seeds.values()], attack, norm) for seeds in methods.values()))
        found |= {key: title_of(key) for key in sorted(radii, key=lambda key: key[2])}
    return found


def title_of(key: tuple) -> str:
    """Return a column's title, such as race-30 0.5/255."""
    attack, norm, eps, steps = key
    return f"{attack}-{steps} " + (f"{255 * eps:g}/255" if norm == "linf" else f"l2 {eps:g}")


def format_scores(methods: dict, attacks: dict[tuple, str], what: str = "mIoU") -> str:
    """Return a table with a line per method: a score clean and under each attack, mean and standard deviation."""
    attacked = next(iter(attacks))
    columns = {**start_columns(methods), "networks": [str(len(seeds)) for seeds in methods.values()],
               "clean, all images": [_format_mean([analysis.score(records[CLEAN], what) for records in seeds.values()])
                                     for seeds in methods.values()],
               "clean, attacked images": [_format_mean([analysis.pair(records, attacked, what)[0]
                                                        for records in seeds.values()]) for seeds in methods.values()]}
    return format_markdown(columns | _score_attacks(methods, attacks, what))


def format_others(methods: dict, attacks: dict[tuple, str]) -> str:
    """Return a table of mIoU under each attack, its mean over corruptions, and the smallest radii's median."""
    columns = start_columns(methods) | _score_attacks(methods, attacks, "mIoU")
    for title, measure, digits in (("corruptions, severity 3", analysis.score_corruptions, 1),
                                   ("smallest radius, /255", analysis.median_radius, 2)):
        columns[title] = [_format_mean([measure(records) for records in seeds.values()], digits=digits)
                          for seeds in methods.values()]
    return drop_empty(columns)


def start_columns(methods: dict) -> dict[str, list[str]]:
    """Return the first column: the methods' titles."""
    return {"trained with": [NAMES[name] for name in methods]}


def _score_attacks(methods: dict, attacks: dict[tuple, str], what: str) -> dict[str, list[str]]:
    return {title: [_format_mean([analysis.score(records[key], what) for records in seeds.values() if key in records])
                    for seeds in methods.values()] for key, title in attacks.items()}


def format_convergence(methods: dict) -> str:
    """Return a table of mIoU against the steps of race, of the networks that were attacked with several numbers."""
    lines = [{"trained with": NAMES[name], "eps": f"{255 * eps:g}/255",
              **{f"race-{steps}": f"{value:.1f}" for steps, value in curve}}
             for name, eps, curve in analysis.list_convergence(methods)]
    return format_markdown({title: [line[title] for line in lines] for title in lines[0]}) if lines else "-"


def format_stronger(methods: dict) -> str:
    """Return a table of accuracy and mIoU under race and APGD on its first loss, of the networks attacked with both."""
    lines = []
    for name, seeds in methods.items():
        for records in seeds.values():
            for key in sorted((key for key in records if key[0] == "apgd"), key=lambda key: key[2]):
                usual, = (race for race in analysis.list_radii([records], "race") if race[2] == key[2])
                shown = {title_of(usual).partition(" ")[0]: [records[usual]],
                         f"apgd-{key[3]} on blend": [records[key]],
                         "the worse for each image": [records[CLEAN], records[usual], records[key]]}
                lines.append({"trained with": NAMES[name], "eps": f"{255 * key[2]:g}/255", **{
                    title: " / ".join(f"{score:.1f}" for score in analysis.worst_of(every, records[key].names))
                    for title, every in shown.items()}})
    return format_markdown({title: [line[title] for line in lines] for title in lines[0]}) if lines else "-"


def format_probes(methods: dict, files: dict) -> str:
    """Return a table with a line per method of what probes.py measured; "-" without any."""
    if not any("probe" in of_network for of_network in files.values()):
        return "-"
    columns = start_columns(methods)
    for key, title in PROBES.items():
        columns[title] = [_format_mean([files[f"{name}-{seed}"]["probe"][key] for seed in seeds], digits=3)
                          for name, seeds in methods.items()]
    return format_markdown(columns)


def format_failures(methods: dict, files: dict) -> str:
    """Return a table with a line per method of how many networks were verified, and which checks failed."""
    columns = start_columns(methods) | {"networks": [], "failed": []}
    for name, seeds in methods.items():
        checks = {seed: files[f"{name}-{seed}"]["verify"]["checks"] for seed in seeds}
        columns["networks"].append(str(len(seeds)))
        columns["failed"].append("; ".join(f"{check['name']} (seed {seed})" for seed, every in checks.items()
                                           for check in every if not check["passed"]) or "none")
    return format_markdown(columns)


def format_lengths(scores: dict[str, dict]) -> str:
    """Return a table of what length.py measured: {iterations: its scores}."""
    return format_markdown({"iterations": list(scores), **{title: [f"{100 * each[key]:.1f}" for each in scores.values()]
                                                           for title, key in (("mIoU", "Mean IoU"),
                                                                              ("pixel accuracy", "Overall Acc"))}})


def drop_empty(columns: dict[str, list[str]]) -> str:
    """Return a table without the columns in which nothing is measured."""
    return format_markdown({title: cells for title, cells in columns.items() if {*cells} != {"-"}})


def _format_mean(values: list, *, digits: int = 1) -> str:
    if not values or None in values:
        return "-"
    found = analysis.summarize(values)
    spread = "" if found["spread"] is None else f" ± {found['spread']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{spread}"

