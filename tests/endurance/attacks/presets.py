"""The two preset files and a LoRA's own default from bytes of all kinds: read, shown, saved back."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from lbw.tags.encodings import decode
from lbw.tags.library import Library
from lbw.tags.presets import DEFAULT_PRESETS, with_preset
from tests.endurance.attacks.bodies import ONES
from tests.endurance.attacks.files import SPECIAL, put_special, remove
from tests.endurance.attacks.host import PRESETS, RULE_SETS, Host
from tests.endurance.attacks.mutate import NAMES, NUMBERS, RULES, WEIGHTS, WORDS
from tests.endurance.attacks.watch import Limits, Report, Watch, listening, short

LIMIT_MS, LIMIT_MB = 500.0, 100.0
LINE_ENDS = ("\n", "\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\n\n", "")
CODECS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "cp932", "gb18030", "latin-1", "utf-32")
OTHER_WORDS = (
    "# a note",
    "café",
    "プリセット",
    "预设",
    "\ufeff",
    "\0",
    "\uff1a",
    "\uff21\uff22\uff23\uff1a\uff11\uff0c\uff10",
    "\x1b[31m",
    "<script>alert(1)</script>",
    "&lt;",
    "-" * 3000,
    "," * 3000,
    ":" * 3000,
    "=" * 3000,
    "A:" + "1," * 2000,
    "name=" + "IN00 " * 900 + "=1",
)


class Texts:
    """Preset files of all kinds."""

    def __init__(self, choice: Random) -> None:
        self.choice = choice

    def _line(self) -> str:
        pick = self.choice.choice
        if self.choice.random() < 0.5:
            return pick(NAMES) + pick((":", ":", "=", "\uff1a", " ", "\t", "")) + pick((*WEIGHTS, *RULES, ONES))
        words = (*NAMES, *NUMBERS, *WORDS, *OTHER_WORDS, *WEIGHTS)
        return "".join(pick(words) for _ in range(self.choice.randint(0, 4)))

    def next(self) -> bytes:
        if self.choice.random() < 0.15:
            return self.choice.randbytes(self.choice.choice((0, 1, 2, 3, 100, 5000)))
        lines = (
            self.choice.choice((PRESETS, RULE_SETS, DEFAULT_PRESETS)).splitlines() if self.choice.random() < 0.6 else []
        )
        for _ in range(self.choice.choice((0, 1, 3, 20))):
            lines.insert(self.choice.randint(0, len(lines)), self._line())
        end = self.choice.choice(LINE_ENDS)
        text = "".join(line + (end if self.choice.random() < 0.95 else self.choice.choice(LINE_ENDS)) for line in lines)
        content = text.encode(self.choice.choice(CODECS), errors="replace")
        if self.choice.random() < 0.3 and content:
            place = self.choice.randrange(len(content))
            content = content[:place] + self.choice.randbytes(self.choice.choice((1, 2, 7))) + content[place:]
        return content


def _saved(host: Host, path: Path, what: str, watch: Watch, content: bytes) -> None:
    """Show a file, save what is shown, and look whether the file has the same bytes; then with one preset more."""
    from lbw.ui.elemental import rule_sets_in
    from lbw.ui.presets_text import presets_in

    file = (presets_in if what == "presets" else rule_sets_in)(path)
    shown = file.reload()
    if shown.text is None:
        return
    file.check(shown.text, None)
    saved = file.save(shown.text, shown.loaded)
    decoded = decode(content)
    if "Not saved" in saved.html:
        if path.read_bytes() != content:
            watch.report.find("what was not saved has changed the file", short(content))
        return
    kept = [beside.read_bytes() for beside in path.parent.glob(f"{path.name}.before-utf8*")]
    now = path.read_bytes()
    if decoded.is_utf8 and now != content and not _is_same_but_ends(now, content):
        watch.report.find(
            "saving what is shown changes other bytes than line ends", f"{short(content)} -> {short(now)}"
        )
    if not decoded.is_utf8 and content not in kept:
        watch.report.find("the bytes of a file that is not UTF-8 are lost", short(content))
    Library.read(shown.text, shown.text, "A")
    if what == "presets":
        before = shown.text + "\n" * (not shown.text.endswith("\n") and shown.text != "")
        if with_preset(shown.text, "NEW", ONES) != f"{before}NEW:{ONES}\n":
            watch.report.find("a preset more changes other lines", short(shown.text))


def _is_same_but_ends(now: bytes, before: bytes) -> bool:
    """Whether line ends alone, of which a file has one kind afterwards, and a mark at the beginning differ."""

    def plain(content: bytes) -> bytes:
        return content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    return plain(now) == plain(before)


@contextmanager
def _folder(data: Path) -> Iterator[Path]:
    folder = data / "texts"
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            remove(path)
        folder.rmdir()


def run(host: Host, count: int, seed: int) -> Report:
    watch = Watch("presets", limit_ms=LIMIT_MS, limit_mb=LIMIT_MB)
    texts = Texts(Random(seed))
    with _folder(host.data) as folder, listening() as errors:
        path = folder / "presets.txt"
        for number in Limits.numbers(count):
            what = "presets" if number % 2 else "elements"
            if number % 50 < len(SPECIAL):
                kind = SPECIAL[number % 50]
                put_special(path, kind)
                watch.attempt(kind, lambda what=what: _of_special(path, what))  # type: ignore[misc]
                remove(path)
                continue
            content = texts.next()
            path.write_bytes(content)
            watch.attempt(content, lambda what=what, content=content: _saved(host, path, what, watch, content))  # type: ignore[misc]
            for beside in folder.iterdir():
                remove(beside)
            if number % 1000 == 999:
                print(f"presets: {number + 1}, {len(watch.report.findings)} findings", flush=True)
    for line in errors.lines:
        watch.report.find(f"an error in the log: {short(line, 100)}", line)
    return watch.end()


def _of_special(path: Path, what: str) -> None:
    """Something that is no file stays, unless it leads nowhere; and a link stays a link."""
    from lbw.ui.elemental import rule_sets_in
    from lbw.ui.presets_text import presets_in

    file = (presets_in if what == "presets" else rule_sets_in)(path)
    is_there = os.path.lexists(path)
    before = stat.S_IFMT(os.lstat(path).st_mode) if is_there else None
    file.read()
    shown = file.reload()
    file.check("A:1", None)
    file.save(shown.text or "A:1\n", shown.loaded)
    if is_there:
        assert before == stat.S_IFMT(os.lstat(path).st_mode), "something else stands in its place"
