"""The tables of the panel's words in other languages."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).resolve().parents[2] / "scripts" / "lbw" / "ui").glob("*.json"))
TABLES = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES}


def words_of(text: str) -> Counter[str]:
    return Counter(re.findall(r"\{(\w+)\}", text))


def test_there_are_three_languages():
    assert [*TABLES] == ["ja_JP", "zh_CN", "zh_TW"]


@pytest.mark.parametrize("language", TABLES)
def test_each_language_says_what_the_others_say(language: str):
    every = {key for table in TABLES.values() for key in table}
    assert every - TABLES[language].keys() == set()


@pytest.mark.parametrize("language", TABLES)
def test_a_translation_keeps_what_a_message_is_about(language: str):
    wrong = [key for key, text in TABLES[language].items() if words_of(key) != words_of(text) or not text.strip()]
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_stands_twice(file: Path):
    pairs = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=list)
    assert [key for key, count in Counter(key for key, _ in pairs).items() if count > 1] == []


@pytest.mark.parametrize("language", ["zh_CN", "zh_TW"])
def test_chinese_has_no_japanese_letters_and_the_signs_of_its_own_script(language: str):
    text = "".join(TABLES[language].values())
    assert re.findall("[\\u3041-\\u30ff]", text) == []
    others = {
        "zh_CN": "設預權層載儲圖區塊寫標籤開結範圍顯數點線進",
        "zh_TW": "设预权层载储图区块写标签开结范围显数点线进",
    }
    assert sorted({sign for sign in text if sign in others[language]}) == []
