"""Draw the curves of benchmarks.attack_strength, accuracy and mIoU against gradients, and print its main table.

    python -m benchmarks.plot_strength results/attacks_voc.json docs/img/attacks_voc.png
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


def format_table(summary: list[dict]) -> str:
    """Return a table of what race and the best public attack leave, a line for each eps and number of gradients."""
    lines = []
    for eps, gradients in sorted({(line["eps"], line["gradients"]) for line in summary if line["attack"] not in OURS}):
        def find(number: int, attack: str, eps=eps) -> dict:
            return next(line for line in summary
                        if (line["eps"], line["gradients"], line["attack"]) == (eps, number, attack))

        cells = [f"{eps * 255:g}/255", str(gradients)]
        for score in SCORES:
            public = min((line for line in summary if (line["eps"], line["gradients"]) == (eps, gradients)
                          and line["attack"] not in OURS), key=lambda line: line[score])
            cells += [f"{public[score]:.1f} ({public['attack']})", f"{find(gradients // 2, 'race')[score]:.1f}",
                      f"{find(gradients, 'race')[score]:.1f}"]
        lines.append(cells)
    titles = ["eps", "N", *(f"{score}: {what}" for score in SCORES
                            for what in ("best public one", "race, N/2", "race, N"))]
    return format_markdown(dict(zip(titles, map(list, zip(*lines, strict=True)), strict=True)))


def main():
    """Draw the curves and print the table."""
    summary = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["summary"]
    draw(summary, Path(sys.argv[2]))
    print(format_table(summary))


if __name__ == "__main__":
    main()
