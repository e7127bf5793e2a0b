"""The panel takes for an argument of a tag what the server takes for one: both have the same words."""

from __future__ import annotations

import re
from pathlib import Path

from lbw.tags.blocks import families_with
from lbw.tags.families import KNOWN
from lbw.tags.slips import _SYNONYMS, KEYS, WEIGHTS_KEYS, narrow

SCRIPT = (Path(__file__).parents[2] / "javascript" / "lbw_prompt.js").read_text(encoding="utf-8")


def listed(name: str) -> tuple[str, ...]:
    """The words of an array of the script."""
    return tuple(re.findall(r'"(\w+)"', re.search(rf"const {name} = \[(.*?)\];", SCRIPT, re.DOTALL)[1]))


def test_the_keys_are_the_same():
    assert listed("WEIGHTS_KEYS") == WEIGHTS_KEYS
    assert (*WEIGHTS_KEYS, *listed("KEYS")) == KEYS
    assert set(listed("STRENGTHS")) < set(KEYS)


def test_the_other_names_of_keys_are_the_same():
    table = re.search(r"const SYNONYMS = \{(.*?)\};", SCRIPT, re.DOTALL)[1]
    assert dict(re.findall(r'(\w+): "(\w+)"', table)) == _SYNONYMS


def test_the_keys_that_are_also_blocks_are_the_same():
    assert {*listed("ALSO_BLOCKS")} == {key for key in (*KEYS, *_SYNONYMS) if families_with(key.upper())}


def test_every_block_by_name_is_known_as_one():
    blocks = re.compile(re.search(r"const BLOCKS = /(.*)/;", SCRIPT)[1])
    names = {name for family in KNOWN for name in (*family.groups, *family.vocabulary, *family.single_encoders)}
    assert len(names) > 100
    assert [name for name in sorted(names) if not blocks.match(name)] == []
    assert [key for key in (*KEYS, *_SYNONYMS) if blocks.match(key.upper()) and not families_with(key.upper())] == []


def test_the_same_signs_have_a_narrow_form():
    function = re.search(r"const narrow = (.*?);\n", SCRIPT, re.DOTALL)[1]
    signs = re.compile("[" + "".join(map("".join, re.findall(r"\[(\\u.*?)\]|\"(\\u\w{4})\"", function))) + "]")
    wide = {chr(code) for code in range(0x10000) if narrow(chr(code)) != chr(code)}
    assert wide == {chr(code) for code in range(0x10000) if signs.match(chr(code))}
