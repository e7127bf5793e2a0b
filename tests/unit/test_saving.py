from __future__ import annotations

from pathlib import Path

import pytest

from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.presets import parse_presets, with_preset
from lbw.tags.saving import ChangedOnDiskError, save, version_of

ONES = ",".join(["1"] * 17)
ZEROS = ",".join(["0"] * 17)


def test_what_was_loaded_is_written_over_and_what_was_changed_since_is_not(tmp_path: Path):
    path = tmp_path / "presets.txt"
    version = save(path, "", f"A:{ONES}\n", version_of(""), parse_presets)
    version = save(path, "", f"# kept\nA:{ZEROS}\nnonsense\n", version, parse_presets)
    assert path.read_text() == f"# kept\nA:{ZEROS}\nnonsense\n"
    path.write_text(f"A:{ONES}\nB:{ONES}\n")
    with pytest.raises(ChangedOnDiskError) as caught:
        save(path, "", f"A:{ZEROS}\n", version, parse_presets)
    assert caught.value.names == ["A", "B"]
    assert path.read_text() == f"A:{ONES}\nB:{ONES}\n"
    save(path, "", f"A:{ZEROS}\n", None, parse_presets)
    assert path.read_text() == f"A:{ZEROS}\n"


def test_a_text_that_cannot_be_stored_leaves_the_file_alone(tmp_path: Path):
    path = tmp_path / "presets.txt"
    path.write_text("old")
    for text in ("x" * (LONGEST_TEXT + 1), "half \ud83d", "a zero \0"):
        with pytest.raises(ValueError):
            save(path, "", text, version_of("old"), parse_presets)
    assert path.read_text() == "old"


def test_bytes_that_could_not_be_shown_are_kept_beside_the_file(tmp_path: Path):
    path = tmp_path / "presets.txt"
    foreign = f"A:{ONES}\n# \u5199\u771f\n".encode("shift-jis")
    path.write_bytes(foreign)
    save(path, "", f"A:{ONES}\n", None, parse_presets)
    assert (tmp_path / "presets.txt.before-utf8").read_bytes() == foreign


def test_a_preset_is_put_in_its_old_place_or_at_the_end():
    text = f"# mine\nA:{ONES}\nnonsense\nB:{ONES}"
    assert with_preset(text, "A", ZEROS) == f"# mine\nA:{ZEROS}\nnonsense\nB:{ONES}\n"
    assert with_preset(text, " C ", ZEROS) == f"{text}\nC:{ZEROS}\n"
    assert with_preset("", "C", ZEROS) == f"C:{ZEROS}\n"


@pytest.mark.parametrize("name", ["", "A:B", "A=B", "A>B", "#A", "A\nB"])
def test_a_name_that_cannot_stand_in_a_tag_is_refused(name: str):
    with pytest.raises(ValueError):
        with_preset("", name, ONES)
