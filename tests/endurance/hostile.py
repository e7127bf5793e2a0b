"""Sends what nobody in his right mind would: tags, requests, files, presets and names that are made to do harm.

    python -m tests.endurance.hostile [--only PART ...] [--count N] [--seed S] [--quick]
        [--minutes M] [--json FILE]

* tags: prompts from a grammar of all keys, and mutations of those that led to lines of ours that none had come to.
  They are read, planned for a model, told in infotext and summary, and read back from there.
* bodies: JSON for each of our routes, and always-on arguments, as the host's own API gets them.
* files: network files, and what is noted beside them, broken in each place where one of our readers looks.
* presets: the two preset files and a LoRA's own default from bytes of all kinds: read, shown, saved back.
* routes: names of files that are not ours, and bodies of a gigabyte, at a server of its own.

Each has to end in bounded time and memory, with an answer or with a message that says what is wrong, and with nothing
in force afterwards. Runs on the CPU, in one process and a server. Ends with 1 where harm was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from tests.endurance.attacks import bodies, files, presets, routes, tags
from tests.endurance.attacks.host import Host
from tests.endurance.attacks.watch import Limits, Report

PARTS: dict[str, tuple[Callable[[Host, int, int], Report], int, int]] = {
    "tags": (tags.run, 1_000_000, 500),
    "bodies": (bodies.run, 100_000, 200),
    "files": (files.run, 10_000, 60),
    "presets": (presets.run, 20_000, 150),
    "routes": (routes.run, 100, 6),
}
"""{part: (what runs it, how many inputs by default, and how many where it has to be quick)}."""


def show(reports: list[Report]) -> None:
    print(f"{'part':8} {'inputs':>8} {'s':>6} {'slowest':>10} {'memory':>8}  findings")
    for report in reports:
        count = sum(count for count, _examples in report.findings.values())
        print(f"{report.kind:8} {report.tried:8} {report.seconds:6.0f} {report.slowest_ms:7.0f} ms "
              f"{report.peak_mb:5.0f} MB  {f'{count} of {len(report.findings)} kinds' if count else 'none'}")
        print(f"{'':8} slowest: {report.slowest}")
        for what, (times, examples) in sorted(report.findings.items(), key=lambda item: -item[1][0]):
            print(f"{report.kind}: {what} ({times} times)")
            for example in examples:
                print(f"       {example}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--count", type=int, help="inputs of each part, in place of its own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few inputs of each part, whose time does not count")
    parser.add_argument("--minutes", type=float, help="after which each part ends, wherever it is")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Limits.is_timed = not options.quick
    reports = []
    with tempfile.TemporaryDirectory() as data:
        host = Host(Path(data))
        for name in options.only:
            run, usual, quick = PARTS[name]
            Limits.ends = time.monotonic() + options.minutes * 60 if options.minutes else None
            reports.append(run(host, options.count or (quick if options.quick else usual), options.seed))
            if options.json:
                options.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    show(reports)
    sys.stdout.flush()
    os._exit(any(report.findings for report in reports))  # a thread that hangs would keep the process


if __name__ == "__main__":
    main()
