"""Run by the host at each of its starts. There is nothing to install: the host brings all that is needed.

At the first start the presets of the original extension are carried over, so that nobody has to type them again.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "scripts"
FILES = ("lbwpresets.txt", "elempresets.txt")


def earlier_places(host_root: Path) -> list[Path]:
    """Folders in which the original kept the same files."""
    return [host_root / "extensions" / "sd-webui-lora-block-weight" / "scripts", host_root / "scripts"]


def carry_over(host_root: Path) -> None:
    """Copy each file that is absent here from the first earlier place that has it."""
    for name in FILES:
        target = FOLDER / name
        if target.exists():
            continue
        source = next((place / name for place in earlier_places(host_root) if (place / name).is_file()), None)
        if source is None or source.resolve() == target:
            continue
        temporary = target.with_suffix(".new")
        temporary.write_bytes(source.read_bytes())
        os.replace(temporary, target)
        print(f"LoRA Block Weight: took over {source}")


def host_root() -> Path:
    """The host runs this file with its own folder first on PYTHONPATH, and mostly from that folder."""
    paths = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return next((path for path in paths if (path / "modules").is_dir()), Path(sys.argv[0]).resolve().parents[2])


if __name__ == "__main__":
    try:
        carry_over(host_root())
    except OSError as error:
        print(f"LoRA Block Weight: earlier presets were not taken over: {error}", file=sys.stderr)
