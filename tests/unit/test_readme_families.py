"""README's table of models is the table of families."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbw.tags.blocks import block_range
from lbw.tags.families import FLUX, KNOWN, ORIGINAL_LAYOUTS, SD1, Family, label_ranges

README = (Path(__file__).parents[2] / "README.md").read_text()


def row(family: Family) -> str:
    of_all = ("FIRST", "MID", "LAST", "BASE", "CLIP_L")
    groups = [name for name, labels in family.groups.items() if name not in of_all and {*labels} <= {*family.labels}]
    encoders = family.single_encoders or family.of_encoders
    cells = (
        family.title, " ".join(label_ranges(family.labels, family.labels)), " ".join(groups), " ".join(encoders),
        ", ".join(map(str, family.layouts)),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("family", KNOWN, ids=[family.title for family in KNOWN])
def test_every_model_stands_in_the_readme_with_its_blocks(family: Family):
    assert row(family) in README.splitlines()


def test_the_readme_has_no_other_models():
    table = README.partition("| model | blocks in their order |")[2].partition("\n\n")[0].splitlines()[2:]
    assert sorted(table) == sorted(map(row, KNOWN))


@pytest.mark.parametrize("length", ORIGINAL_LAYOUTS)
def test_the_originals_vectors_stand_in_the_readme(length: int):
    line = next(line for line in README.splitlines() if line.startswith(f"| {length} | "))
    words = line.split("|")[2].replace("(Flux)", "").split()
    family = FLUX if length == 61 else SD1
    found = [label for word in words for label in block_range(word, family)]
    assert tuple(found) == ORIGINAL_LAYOUTS[length]
