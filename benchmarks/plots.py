"""What do the measurements look like? Draws the documents' plots from the committed CSV files.

weights/curves.csv holds the validation scores of the runs that made the weights,
weights/experiments.csv those of short runs that differ in one thing, and docs/speed.csv is what
benchmarks/inference.py --csv writes.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
MERGE_MERTENS = 0.9838  # mean MEF-SSIM of OpenCV's MergeMertens on the same validation pairs
COLOURS = {"deepfuse": "tab:blue", "pyramid": "tab:orange"}
MARKERS = {"4": "o", "8": "^", "16": "s", "128": "D"}  # by crops a step
CROP = 128**2 / 1e6  # millions of pixels in a crop of these runs
BASELINE = "-"  # experiments.csv's name of the run that a group's other runs change
GROUPS = {  # of experiments.csv that are drawn: short names, in the order of COLOURS
    "the paper's network, luminance weight 0.1": "paper's network",
    "as it is now, luminance weight 0": "pyramid",
}
LOWEST_CHANGE = -0.04  # of the validation score; longer bars are cut off there
LINES = {  # how docs/speed.csv's methods are drawn: label, colour, style
    "luma: earlier way": ("earlier way, luma alone", "tab:red", "--"),
    "luma: full, float32": ("paper's network, float32, luma alone", "tab:purple", "--"),
    "full, auto": ("--look paper", "tab:blue", "-"),
    "fast": ("--look paper --fast", "tab:olive", "-"),
    "photo": ("photo", "tab:orange", "-"),
    "MergeMertens": ("MergeMertens", "tab:green", "-"),
    "command: inference.py": ("inference.py, whole command", "tab:orange", ":"),
    "command: enfuse": ("enfuse, whole command", "tab:brown", ":"),
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the lines of a CSV file as dicts, by the names in its first line."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draws validation scores over the pixels seen in a network's runs, one after the other."""
    for network, colour in COLOURS.items():
        own = [row for row in rows if row["network"] == network]
        line: list[tuple[float, float]] = []
        labelled = set()
        start = 0.0
        for run in sorted({row["run"] for row in own}, key=int):
            points = [row for row in own if row["run"] == run]
            crops = points[0]["crops a step"]
            pixels = [start + int(row["step"]) * int(crops) * CROP for row in points]
            scores = [float(row["validation MEF-SSIM"]) for row in points]
            label = f"{network}, {crops} crops a step"
            shown = None if crops in labelled else label
            axes.plot(pixels, scores, MARKERS[crops] + "-", color=colour, label=shown)
            labelled.add(crops)
            line += zip(pixels, scores, strict=True)
            start = pixels[-1]
        axes.plot(*zip(*line, strict=True), ":", color=colour, linewidth=0.8)  # between the runs
    axes.axhline(MERGE_MERTENS, color="tab:green", linestyle="--", label="MergeMertens")
    axes.set(
        xlabel="millions of pixels seen, all runs of a network after one another",
        ylabel="validation MEF-SSIM (mean of 24 pairs)",
    )
    axes.set_xscale("log")
    axes.grid(linewidth=0.4)
    axes.legend(loc="lower right", fontsize=8)


def draw_speed(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draws seconds over megapixels, both logarithmic, a line a method."""
    for method, (label, colour, style) in LINES.items():
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue  # benchmarks/inference.py --methods may have left it out
        sizes = [float(row["megapixels"]) for row in own]
        seconds = [float(row["seconds"]) for row in own]
        axes.plot(sizes, seconds, "o" + style, color=colour, label=label, markersize=4)
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="megapixels of each picture", ylabel="seconds a pair")
    sizes = sorted({float(row["megapixels"]) for row in rows})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(linewidth=0.4)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))


def draw_experiments(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draws what one change to a short run adds to its validation score, a bar a change."""
    bars = []
    for (group, name), colour in zip(GROUPS.items(), COLOURS.values(), strict=True):
        scores = {
            row["change"]: float(row["validation MEF-SSIM"])
            for row in rows
            if row["group"] == group
        }
        base = scores.pop(BASELINE)
        changes = sorted((score - base, change) for change, score in scores.items())
        bars += [(f"{name}: {text}", change, colour) for change, text in changes]
    for label, change, colour in bars:
        axes.barh(label, change, color=colour)
        outside = change < LOWEST_CHANGE
        axes.annotate(
            f"{change:+.4f}",
            (LOWEST_CHANGE if outside else change, label),
            xytext=(4 if change >= 0 or outside else -4, 0),
            textcoords="offset points",
            horizontalalignment="left" if change >= 0 or outside else "right",
            verticalalignment="center",
            color="white" if outside else "black",
            fontsize=8,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(LOWEST_CHANGE, 0.012), xlabel="change of the validation MEF-SSIM")
    axes.tick_params(axis="y", labelsize=8)


PLOTS = {
    "curves.png": (draw_curves, "weights/curves.csv", (7.5, 4.5)),
    "speed.png": (draw_speed, "docs/speed.csv", (8.5, 4.5)),
    "experiments.png": (draw_experiments, "weights/experiments.csv", (8.5, 6)),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the plots of docs/ from CSV files.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder to write to")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (draw, data, size) in PLOTS.items():
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes, read_rows(ROOT / data))
        figure.savefig(options.out / name, dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
