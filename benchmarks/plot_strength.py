"""Draw the curves of benchmarks.attack_strength, accuracy and mIoU against gradients, and print its main table.

    python -m benchmarks.plot_strength results/attacks_voc.json docs/img/attacks_voc.png

Without a picture, all files given are counted: on how many lines of that table race reaches its goal.

    python -m benchmarks.plot_strength results/attacks_voc.json results/attacks_camvid.json
"""
import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.report.figures import COLOURS, DASHES, MARKERS
from utils.text import format_markdown

HIGHLIGHTED = "race"
OURS = ("race", "apgd-blend")  # the others are public attacks
SCORES = ("aAcc", "mIoU")
MARGIN = 0.3  # points by which race may leave more than the best public attack, in either score


def draw(summary: list[dict], path: Path):
    """Draw the summary's means, with bars of one sample deviation over seeds."""
    radii = sorted({line["eps"] for line in summary})
    attacks = sorted({line["attack"] for line in summary}, key=lambda name: (name != HIGHLIGHTED, name))
    width = 3.2 * len(radii) + 0.4
    figure = Figure(figsize=(width, 6), layout="constrained")
    axes = figure.subplots(2, len(radii), squeeze=False, sharex=True)
    for row, score in zip(axes, SCORES, strict=True):
        for axis, eps in zip(row, radii, strict=True):
            for style, attack in enumerate(attacks):
                lines = sorted((line for line in summary if (line["eps"], line["attack"]) == (eps, attack)),
                               key=lambda line: line["gradients"])
                axis.errorbar([line["gradients"] for line in lines], [line[score] for line in lines],
                              yerr=[line[f"{score} spread"] or 0 for line in lines], label=attack, capsize=2,
                              color="black" if attack == HIGHLIGHTED else COLOURS[style % (len(COLOURS) - 1)],
                              marker=MARKERS[style % len(MARKERS)], markersize=4, elinewidth=0.8,
                              linestyle=DASHES[style // (len(COLOURS) - 1) % len(DASHES)],
                              linewidth=2 if attack == HIGHLIGHTED else 1)
            axis.set_xscale("log")
            axis.set_xticks(gradients := sorted({line["gradients"] for line in summary}), list(map(str, gradients)))
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel(f"{score} (%)", fontsize=9)
    for axis, eps in zip(axes[0], radii, strict=True):
        axis.set_title(f"eps {eps * 255:g}/255", fontsize=9)
    for axis in axes[1]:
        axis.set_xlabel("gradients per image", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=int(width / 1.6), fontsize=8, frameon=False)
    FigureCanvasAgg(figure).print_png(path)


def compare(summary: list[dict]) -> list[dict]:
    """Return a line for each eps and number of gradients, each score of it a dict.

    The dict holds the public attack that leaves least ("best"), what that leaves ("public"), and what race leaves with
    half of the gradients ("half") and with all ("all").
    """
    lines = []
    for eps, gradients in sorted({(line["eps"], line["gradients"]) for line in summary if line["attack"] not in OURS}):
        same = [line for line in summary if (line["eps"], line["gradients"]) == (eps, gradients)]
        half, = (line for line in summary
                 if (line["eps"], line["gradients"], line["attack"]) == (eps, gradients // 2, HIGHLIGHTED))
        whole, = (line for line in same if line["attack"] == HIGHLIGHTED)
        line = {"eps": eps, "gradients": gradients}
        for score in SCORES:
            public = min((line for line in same if line["attack"] not in OURS), key=lambda line: line[score])
            line[score] = {"best": public["attack"], "public": public[score], "half": half[score], "all": whole[score]}
        lines.append(line)
    return lines


def format_table(summary: list[dict]) -> str:
    """Return a table of what race and the best public attack leave, a line for each eps and number of gradients."""
    lines = [[f"{line['eps'] * 255:g}/255", str(line["gradients"]),
              *(cell for score in SCORES for cell in (f"{line[score]['public']:.1f} ({line[score]['best']})",
                                                      f"{line[score]['half']:.1f}", f"{line[score]['all']:.1f}"))]
             for line in compare(summary)]
    titles = ["eps", "N", *(f"{score}: {what}" for score in SCORES
                            for what in ("best public one", "race, N/2", "race, N"))]
    return format_markdown(dict(zip(titles, map(list, zip(*lines, strict=True)), strict=True)))


def format_goal(summaries: dict[str, list[dict]]) -> str:
    """Return a table: on how many lines of each summary race leaves at most MARGIN more, in both scores."""
    columns = {"results": [], "lines": [], "reached with N/2": [], "reached with N": []}
    for name, summary in summaries.items():
        lines = compare(summary)
        reached = [sum(all(line[score][share] - line[score]["public"] <= MARGIN for score in SCORES) for line in lines)
                   for share in ("half", "all")]
        for column, cell in zip(columns.values(), (name, len(lines), *reached), strict=True):
            column.append(str(cell))
    return format_markdown(columns)


def main():
    """Draw the curves and print the table, or count."""
    *paths, last = map(Path, sys.argv[1:])
    if last.suffix == ".json":
        print(format_goal({path.stem: read_summary(path) for path in (*paths, last)}))
    else:
        draw(read_summary(paths[0]), last)
        print(format_table(read_summary(paths[0])))


def read_summary(path: Path) -> list[dict]:
    """Return the summary of a file of benchmarks.attack_strength."""
    return json.loads(path.read_text(encoding="utf-8"))["summary"]


if __name__ == "__main__":
    main()
