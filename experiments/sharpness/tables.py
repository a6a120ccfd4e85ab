"""The tables of the experiment, each computed from the records alone."""
import json
import tempfile
from pathlib import Path

import numpy as np

from experiments.sharpness import analysis
from experiments.sharpness.analysis import ADVERSARIAL, BASELINE, CLEAN
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


def make_tables(archive: Path) -> dict[str, str]:
    """Return {title: table} of all tables, a line per method in each."""
    methods, files = read_archive(archive)
    attacks = list_attacks(methods)
    race = {key: title for key, title in attacks.items() if key[:2] == ("race", "linf")}
    return {
        "Mean IoU under race, in %": format_scores(methods, race),
        "Mean IoU under other attacks, in %": format_others(methods, {
            key: title for key, title in attacks.items() if key not in race}),
        "Pixel accuracy, in %": format_scores(methods, attacks, "aAcc"),
        **{f"Difference to {name} and 95 % {interval} interval, in points of mIoU": format_differences(
            methods, attacks, interval, baseline=baseline)
            for baseline, name in (("sgd", "SGD"), ("sgd_twice", "SGD of twice the iterations"))
            for interval in ("bootstrap", "t")},
        "Difference to SGD at equal clean mIoU and 95 % bootstrap interval, in points": format_adjusted(methods),
        "Smallest true difference to SGD that is found in 4 of 5 such experiments, in points":
            format_detectable(methods, attacks),
        "Mean IoU by the steps of race, in %": format_convergence(methods),
        "Sharpness and sensitivity": format_probes(methods, files),
        "Checks of verify that failed": format_failures(methods, files)}


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
    columns = {**_start_columns(methods), "networks": [str(len(seeds)) for seeds in methods.values()],
               "clean, all images": [_format_mean([analysis.score(records[CLEAN], what) for records in seeds.values()])
                                     for seeds in methods.values()],
               "clean, attacked images": [_format_mean([analysis.pair(records, attacked, what)[0]
                                                        for records in seeds.values()]) for seeds in methods.values()]}
    return format_markdown(columns | _score_attacks(methods, attacks, what))


def format_others(methods: dict, attacks: dict[tuple, str]) -> str:
    """Return a table of mIoU under each attack, its mean over corruptions, and the smallest radii's median."""
    columns = _start_columns(methods) | _score_attacks(methods, attacks, "mIoU")
    for title, measure, digits in (("corruptions, severity 3", analysis.score_corruptions, 1),
                                   ("smallest radius, /255", analysis.median_radius, 2)):
        columns[title] = [_format_mean([measure(records) for records in seeds.values()], digits=digits)
                          for seeds in methods.values()]
    return _drop_empty(columns)


def _start_columns(methods: dict) -> dict[str, list[str]]:
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


def format_differences(methods: dict, attacks: dict[tuple, str], interval: str, *, baseline: str = BASELINE) -> str:
    """Return a table of the differences to a method, clean and under each attack, with "bootstrap" or "t" intervals."""
    if baseline not in methods:
        return "-"
    others = {name: seeds for name, seeds in methods.items() if name != baseline}
    columns = _start_columns(others)
    for key, title in {CLEAN: "clean, all images", **attacks}.items():
        found = [analysis.difference(seeds, methods[baseline], key) for seeds in others.values()]
        columns[title] = ["-" if each is None else  # one pair of networks has no interval: the unit is the network
                          _format_difference(each.mean, each.t and getattr(each, interval)) for each in found]
    return _drop_empty(columns)


def format_adjusted(methods: dict) -> str:
    """Return a table of the differences that are left at equal clean mIoU, without adversarial training."""
    plain = {name: seeds for name, seeds in methods.items() if not name.startswith(ADVERSARIAL)}
    columns = _start_columns({name: seeds for name, seeds in plain.items() if name != BASELINE})
    for key, title in list_attacks(plain).items():
        if key[1] == "linf" and all(key in records for seeds in plain.values() for records in seeds.values()):
            found = analysis.difference_at_equal_clean({
                name: [analysis.pair(records, key) for records in seeds.values()] for name, seeds in plain.items()})
            columns[title] = [_format_difference(value / 100, None if low is None else (low / 100, high / 100))
                              for value, low, high in found.values()]
    return format_markdown(columns)


def format_detectable(methods: dict, attacks: dict[tuple, str]) -> str:
    """Return a table of the smallest difference that the design finds, by the spread of differences within methods."""
    columns = {"networks of a method": ["1"]}
    for key, title in {CLEAN: "clean, all images", **attacks}.items():
        pairs = [analysis.paired_scores(seeds, methods[BASELINE], key) for name, seeds in methods.items()
                 if name != BASELINE and not name.startswith(ADVERSARIAL)]
        used = [np.subtract(*each) for each in pairs if len(each[0]) > 1]
        size = analysis.detectable(used)
        if used and key == CLEAN:
            columns["networks of a method"] = [str(min(map(len, used)))]
        columns[title] = ["-" if size is None else f"{size:.1f}"]
    return _drop_empty(columns)


def format_probes(methods: dict, files: dict) -> str:
    """Return a table with a line per method of what probes.py measured; "-" without any."""
    if not any("probe" in of_network for of_network in files.values()):
        return "-"
    columns = _start_columns(methods)
    for key, title in PROBES.items():
        columns[title] = [_format_mean([files[f"{name}-{seed}"]["probe"][key] for seed in seeds], digits=3)
                          for name, seeds in methods.items()]
    return format_markdown(columns)


def format_failures(methods: dict, files: dict) -> str:
    """Return a table with a line per method of how many networks were verified, and which checks failed."""
    columns = _start_columns(methods) | {"networks": [], "failed": []}
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


def _drop_empty(columns: dict[str, list[str]]) -> str:
    return format_markdown({title: cells for title, cells in columns.items() if {*cells} != {"-"}})


def _format_difference(value: float, interval: tuple[float, float] | None) -> str:
    """Return a difference of shares as points, such as "+1.0 (-0.5 to +2.5)"."""
    return f"{100 * value:+.1f}" + ("" if interval is None else
                                    f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})")


def _format_mean(values: list, *, digits: int = 1) -> str:
    if not values or None in values:
        return "-"
    found = analysis.summarize(values)
    spread = "" if found["spread"] is None else f" ± {found['spread']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{spread}"

