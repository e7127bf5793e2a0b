"""The panel's words in the host's other languages, as the host gets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.webui import WebUI


@pytest.fixture
def added(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """The host's languages, as names of files, once ours were added to given ones."""
    from lbw.hosts import settings  # can be imported once a host runs
    from modules import localization

    def add(known: dict[str, Any]) -> dict[str, Any]:
        monkeypatch.setattr(localization, "localizations", known)
        settings.add_translations()
        settings.add_translations()  # as at each reload of the page
        return {
            name: [Path(file).name for file in files] if isinstance(files, list) else files
            for name, files in known.items()
        }

    yield add


def test_a_host_without_languages_has_ours(added: Callable[..., Any]):
    assert added({}) == {"ja_JP": ["ja_JP.json"], "zh_TW": ["zh_TW.json"], "zh_CN": ["zh_CN.json"]}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("zh-Hans (Stable)", "zh_CN.json"), ("zh-Hans (Testing) [vladmandic]", "zh_CN.json"), ("zh_Hans", "zh_CN.json"),
        ("zh_CN", "zh_CN.json"), ("zh-CN", "zh_CN.json"), ("chinese-all-1024", "zh_CN.json"),
        ("zh_TW", "zh_TW.json"), ("zh-TW", "zh_TW.json"), ("zh_Hant", "zh_TW.json"), ("zh-Hant (Stable)", "zh_TW.json"),
        ("zh_HK", "zh_TW.json"), ("ja_JP", "ja_JP.json"), ("ja-JP", "ja_JP.json"),
    ],
)
def test_whatever_a_language_is_called_it_has_our_words_and_its_own_win(
    added: Callable[..., Any], name: str, file: str
):
    assert added({name: [f"/localizations/{name}.json"]})[name] == [file, f"{name}.json"]


def test_other_languages_are_left_alone(added: Callable[..., Any]):
    known = {name: [f"/a/{name}.json"] for name in ("ko_KR", "None", "javanese", "zhuang")}
    found = added(known)
    assert {name: found[name] for name in ("ko_KR", "None", "javanese", "zhuang")} == {
        name: [f"{name}.json"] for name in ("ko_KR", "None", "javanese", "zhuang")
    }


def test_where_the_host_has_one_file_for_a_language_it_keeps_its_own(added: Callable[..., Any]):
    assert added({"zh_CN": "/localizations/zh_CN.json"})["zh_CN"] == "/localizations/zh_CN.json"


def test_every_setting_has_its_words_in_every_language(webui: WebUI):
    from lbw.hosts import settings

    said = [option.label for option in settings.SETTINGS.values()]
    said += [text for option in settings.SETTINGS.values() for text in texts_of(option.comment_after)]
    files = sorted(settings._TRANSLATIONS.glob("*.json"))
    assert len(said) >= 4 and len(files) == 3
    for file in files:
        table = json.loads(file.read_text(encoding="utf-8"))
        assert [text for text in said if text not in table] == [], file.stem


def texts_of(html: str) -> list[str]:
    """What our own comments say; the host's on reloading is translated by whoever translates the host."""
    from html.parser import HTMLParser

    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    return [text.strip() for text in found if "eload UI" not in text and text.strip("() ")]
