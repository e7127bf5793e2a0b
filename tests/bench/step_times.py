"""Draws how long each step of a generation took: with the WebUI alone, with the original, and with this extension.

    python -m tests.bench.step_times --host none.json --original original.json --ours ours.json [--image FILE]

The files are those that ``python -m tests.bench.real_host --json`` has written in three runs of one WebUI on one
machine. The WebUI alone knows no ``stop=``: its LoRAs stay on, so it has a case of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lbw.pictures import Theme, new_figure, png, style

IMAGE = Path(__file__).resolve().parents[1] / "demo_model" / "pictures" / "step_times.png"
TITLES = {"none": "the WebUI alone", "original": "with the original", "ours": "with this extension"}
"""What stands over a run, by what ``real_host --extension`` calls it."""
CAPTIONS = {
    "LoRA, again": "one LoRA, on in all steps", "three LoRAs, again": "three LoRAs that stop one after the other"
}  # fmt: skip
"""What stands below that: what was asked for. Another case has its own name."""


def row_of(report: dict[str, Any], extension: str, case: str) -> dict[str, Any]:
    """The row of a case in what a run of ``tests.bench.real_host`` has written.

    Raises:
        SystemExit: the run was another extension's, has no such case, or the case failed or had wrong strengths.
    """
    if report["extension"] != extension:
        raise SystemExit(f"a run with --extension {extension} is expected, this one has {report['extension']}")
    row = next((row for row in report["rows"] if row["case"] == case), None)
    if row is None:
        raise SystemExit(f"the run with --extension {extension} has no case '{case}'")
    if "error" in row or row["wrong"]:
        raise SystemExit(f"'{case}' with --extension {extension}: {row.get('error') or 'its strengths were wrong'}")
    return row


def step_times(rows: dict[str, dict[str, Any]], about: dict[str, Any]) -> Figure:
    """A field of bars for each run, a bar for each step, in ms on one axis for all.

    Args:
        rows: {extension as in :data:`TITLES`: the row to draw}.
        about: what was measured, as ``real_host`` has it.

    Raises:
        SystemExit: the rows have different numbers of steps.
    """
    numbers = {len(row["step_times"]) for row in rows.values()}
    if len(numbers) > 1:
        raise SystemExit(f"runs of one number of steps are expected, not of {sorted(numbers)}")
    theme = Theme.LIGHT
    colours = dict(zip(TITLES, ("#6b7280", *theme.colours.lines), strict=False))
    figure = new_figure(9, 3.2, theme)
    fields = figure.subplots(1, len(rows), sharey=True)
    for axes, (extension, row) in zip(fields, rows.items(), strict=True):
        times = row["step_times"]
        style(axes, theme)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=theme.colours.grid, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.bar(range(len(times)), times, color=colours[extension])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step", fontsize=8)
        caption = CAPTIONS.get(row["case"], row["case"])
        axes.set_title(f"{TITLES[extension]}\n{caption}", fontsize=9, loc="left", color=theme.colours.text)
        longest = max(range(len(times)), key=times.__getitem__)
        axes.annotate(
            f"{times[longest]:.0f} ms", (longest, times[longest]), (0, 2), textcoords="offset points", fontsize=8,
            ha="left" if longest < len(times) / 2 else "right", color=theme.colours.text,
        )  # fmt: skip
    fields[0].set_ylabel("time of the step, ms", fontsize=8)
    measured = f"{about['model']}, {about['dtype'].removeprefix('torch.')}, {about['device']}"
    figure.supxlabel(measured, fontsize=8, color=theme.colours.text)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, extension in (("host", "none"), ("original", "original"), ("ours", "ours")):
        parser.add_argument(f"--{name}", type=Path, required=True, dest=extension, help=f"--extension {extension}")
    parser.add_argument("--case", default="three LoRAs, again", help="the original's and ours")
    parser.add_argument("--host-case", default="LoRA, again", help="the one of the WebUI alone")
    parser.add_argument("--image", type=Path, default=IMAGE)
    options = parser.parse_args()
    reports = {extension: json.loads(getattr(options, extension).read_text()) for extension in TITLES}
    runs = {tuple(report["about"][key] for key in ("device", "model", "dtype")) for report in reports.values()}
    if len(runs) > 1:
        raise SystemExit(f"runs of one model in one type on one device are expected, not {sorted(runs)}")
    rows = {
        extension: row_of(report, extension, options.host_case if extension == "none" else options.case)
        for extension, report in reports.items()
    }
    options.image.write_bytes(png(step_times(rows, reports["ours"]["about"])))


if __name__ == "__main__":
    main()
