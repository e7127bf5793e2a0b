"""Preset files as editors of other times and places write them: nothing of them is lost, by reading or by saving."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lbw.tags.encodings import decode
from lbw.tags.presets import encoding_of, parse_joined_presets, parse_presets, parse_rule_sets, read
from lbw.tags.saving import save, version_of

OUTD = "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"
JAPANESE = [
    "\u9854", "\u5199\u771f", "\u9854\u3060\u3051", "\u80cc\u666f\u306e\u307f", "\u5b50", "\u670d\u88c5", "\u30a2",
    "\u7d75\u67c4",
]  # fmt: skip
CHINESE = [
    "\u8138", "\u4eba\u7269", "\u80cc\u666f", "\u662f", "\u98ce\u683c", "\u8054\u901a", "\u8868\u60c5", "\u8eab\u4f53",
    "\u7ec6\u8282",
]  # fmt: skip
LATIN = ["f\u00fcr", "caf\u00e9", "Gr\u00f6\u00dfe", "\u00c0 la", "\u00e9", "se\u00f1or", "na\u00efve", "\u00d6l"]
WRITTEN = [
    *[("cp932", "Shift-JIS", name) for name in JAPANESE],
    *[("gbk", "GBK", name) for name in CHINESE],
    *[("latin-1", "Latin-1", name) for name in LATIN],
    *[(codec, "UTF-16", name) for codec in ("utf-16", "utf-16-le", "utf-16-be") for name in ("A", "\u9854", "\u00e9")],
    ("gbk", "GBK", "x\u662fy"), ("latin-1", "Latin-1", "\u00c4\u00d6\u00dc"),
    ("utf-32", "UTF-32", "\u9854"), ("utf-8", "UTF-8", "\u9854"), ("utf-8-sig", "UTF-8", "\u9854"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "encoding", "name"), WRITTEN)
def test_a_file_with_one_word_is_read_as_what_it_is(codec: str, encoding: str, name: str):
    text = f"{name}:{OUTD}\n"
    assert decode(text.encode(codec)).text == text
    assert decode(text.encode(codec)).encoding == encoding


def words(characters: str) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(characters), min_size=1, max_size=4)


NAMES = {
    "cp932": words("".join(JAPANESE)), "gbk": words("".join(CHINESE)),
    "latin-1": st.tuples(st.sampled_from(LATIN), words("abc ")).map("".join),
    **dict.fromkeys(("utf-8", "utf-8-sig", "utf-16"), words("Aa\u9854\u00e9\U0001f431")),
    **dict.fromkeys(("utf-16-le", "utf-16-be"), words("Aa\u9854\u00e9")),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(NAMES)), st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_was_read_and_saved_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, codec: str, end: str
):
    path = tmp_path_factory.mktemp("saved") / "lbwpresets.txt"
    name = NAMES[codec]
    line = st.one_of(
        name.map(lambda each: f"{each}:{OUTD}"), name.map(lambda each: f"{each}:NONE,OUT03=1"),
        name.map(lambda each: f"# {each}"), name.map(lambda each: f"{each}\t{OUTD}"), st.just(""), st.just("nonsense"),
    )  # fmt: skip
    lines = [data.draw(name) + ":" + OUTD, *data.draw(st.lists(line, max_size=6))]
    content = (end.join(lines) + end).encode(codec)
    assume(codec != "gbk" or not is_utf8(content))  # a word or two of GBK may be so by chance
    path.write_bytes(content)
    text = read(path, "")
    assert text.split("\n")[:-1] == lines
    save(path, "", text, version_of(text), parse_joined_presets)
    assert read(path, "") == text and parse_presets(read(path, "")) == parse_presets("\n".join(lines))
    assert path.read_bytes().decode("utf-8").split(end)[:-1] == lines, "in UTF-8, with the line ends that it had"
    beside = path.with_name("lbwpresets.txt.before-utf8")
    assert beside.exists() == (codec.startswith("utf-16") or not is_utf8(content))
    assert not beside.exists() or beside.read_bytes() == content


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.binary(max_size=60))
def test_no_bytes_are_lost_by_saving(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / "lbwpresets.txt"
    path.write_bytes(content)
    text = read(path, "")
    if "\0" in text:
        with pytest.raises(ValueError, match="is a zero"):
            save(path, "", text, version_of(text), parse_joined_presets)
        assert path.read_bytes() == content
        return
    save(path, "", text, version_of(text), parse_joined_presets)
    kept = [file.read_bytes() for file in folder.iterdir()]
    plain = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert content in kept or plain in [each.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for each in kept]
    assert read(path, "") == text


def test_lines_of_another_tool_are_read_as_what_they_are():
    lines = [f"\u9854:{OUTD}".encode("cp932"), b"# mine", f"\u732b:{OUTD}".encode(), f"\u9ad8:{OUTD}".encode("cp932")]
    decoded = decode(b"\n".join(lines))
    assert list(parse_presets(decoded.text)[0]) == ["\u9854", "\u732b", "\u9ad8"]
    assert decoded.encoding == "Shift-JIS, lines 3 as UTF-8"


def test_a_stray_zero_byte_makes_no_utf16():
    assert decode(b"ALL:1,1\nNONE:0,0\n\0").is_utf8


def test_what_was_kept_before_is_not_written_over(tmp_path: Path):
    path = tmp_path / "lbwpresets.txt"
    files = [f"{name}:{OUTD}\n".encode("cp932") for name in JAPANESE[:2]]
    for content in (*files, files[0]):
        path.write_bytes(content)
        save(path, "", read(path, ""), None, parse_joined_presets)
    kept = sorted(file for file in tmp_path.iterdir() if file != path)
    assert [file.name for file in kept] == ["lbwpresets.txt.before-utf8", "lbwpresets.txt.before-utf8.2"]
    assert [file.read_bytes() for file in kept] == files


def test_what_a_file_was_read_as_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "elempresets.txt"
    path.write_bytes("\u9854:IN05:attn:0\n# once".encode("cp932"))
    with caplog.at_level(logging.WARNING, "lbw"):
        for _image in range(3):
            assert list(parse_rule_sets(read(path, ""))[0]) == ["\u9854"]
    (message,) = caplog.messages
    assert "elempresets.txt: expected UTF-8; it is read as Shift-JIS" in message
    assert encoding_of(path) == "Shift-JIS"
    save(path, "", read(path, ""), None, parse_rule_sets)
    assert encoding_of(path) is None and len(caplog.messages) == 1


def test_a_file_of_many_lines_is_written_with_the_ends_that_most_have(tmp_path: Path):
    path = tmp_path / "lbwpresets.txt"
    path.write_bytes(b"A\r\nB\r\nC\n")
    save(path, "", "A\nB\nC\nD\n", version_of("A\nB\nC\n"), parse_joined_presets)
    assert path.read_bytes() == b"A\r\nB\r\nC\r\nD\r\n"
