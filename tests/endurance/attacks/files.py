"""Broken network files, and what is noted beside them, before each of our readers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import load_file, save

from lbw.bake.baking import Progress
from lbw.bake.host import BakeError
from lbw.bake.metadata import Source as Described
from lbw.bake.metadata import describe
from lbw.bake.sources import Source
from lbw.engine.strengths import UnmeasurableError
from lbw.files import foreign_names, head, origin
from lbw.request import bake_actions
from lbw.request.bake import Order
from lbw.tags import own_default
from lbw.tags.families import SD1
from tests.endurance.attacks.host import Host
from tests.endurance.attacks.mutate import NAMES, json_value
from tests.endurance.attacks.watch import Limits, Report, Watch, listening, short

LIMIT_MS, LIMIT_MB = 2000.0, 1200.0
"""A head of the largest size that is read takes the most of both."""

NAME = "hostile"
ODD_NUMBERS = (
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**400,
    1.5,
    float("inf"),
    float("nan"),
    "1",
    "x",
    None,
    True,
    [],
    [1],
    {},
)
ODD_TYPES = ("F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "F4", "f32", "", "C64", "\ud800", None, 5, [], "U8", "I8")
METADATA_KEYS = (
    "ss_tag_frequency", "ss_base_model_version", "modelspec.architecture", "modelspec.license", "sshs_model_hash",
    "ss_v2", "lora_adapter_metadata", "modelspec.trigger_phrase", "modelspec.title", "ss_network_module", "x",
)  # fmt: skip


class Breaker:
    """Makes broken files of a sound one.

    Args:
        whole: its bytes.
    """

    def __init__(self, whole: bytes, choice: Random) -> None:
        size = int.from_bytes(whole[:8], "little")
        self.entries: dict[str, Any] = json.loads(whole[8 : 8 + size])
        self.data, self.whole, self.choice = whole[8 + size :], whole, choice

    def _file(self, content: bytes, size: int | None = None) -> bytes:
        length = len(content) if size is None else size
        return (length % 2**64).to_bytes(8, "little") + content + self.data

    def _json(self, entries: Any) -> bytes:
        try:
            return json.dumps(entries).encode()
        except RecursionError:
            return b"[" * 5000

    def _with_metadata(self) -> bytes:
        pick = self.choice.choice
        texts = (
            "[" * 5000,
            "{" * 9,
            '{"a": ' * 3000,
            "NaN",
            "1e999",
            "null",
            "\ud800",
            "x" * 1_000_000,
            '{"a": {"b": 1e999}}',
            '{"1_img": {"cat": 3, "": -1, "\\ud800": 2}}',
            '{"unet.lora_alpha": 1e999}',
            "flux" * 9,
            "None",
            "9" * 9000,
        )
        entries = dict(self.entries)
        entries["__metadata__"] = pick((
            {key: pick(texts) for key in METADATA_KEYS if self.choice.random() < 0.5},
            {key: json_value(self.choice) for key in METADATA_KEYS}, [], None, 5, "x", {"": ""}, {"a": {"b": "c"}},
        ))  # fmt: skip
        return self._file(self._json(entries))

    def _with_entries(self) -> bytes:
        pick = self.choice.choice
        entries = {key: dict(value) if isinstance(value, dict) else value for key, value in self.entries.items()}
        for _ in range(pick((1, 1, 3, 20))):
            name = pick([*entries])
            entry = entries[name]
            if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
                continue
            kind = self.choice.randrange(8)
            if kind == 0:
                entry["dtype"] = pick(ODD_TYPES)
            elif kind == 1:
                entry["shape"] = pick(
                    ([pick(ODD_NUMBERS) for _ in range(pick((0, 1, 2, 2, 4, 70)))], pick(ODD_NUMBERS))
                )
            elif kind == 2:
                entry["data_offsets"] = pick(
                    ([pick(ODD_NUMBERS), pick(ODD_NUMBERS)], [0, 0], [0, len(self.data)], [8, 0], [])
                )
            elif kind == 3:
                del entry[pick([*entry])]
            elif kind == 4:
                entries[name] = json_value(self.choice)
            elif kind == 5:
                entries[
                    pick(
                        (
                            *NAMES,
                            ".processor." * 3000,
                            "a" * 100_000,
                            name + ".weight",
                            "x" + ".lora_A" * 2000,
                            "base_model.model." * 999,
                            "unet." + "a.lora_A" * 5000,
                            "attn2_to_k" * 5000,
                        )
                    )
                ] = entries.pop(name)
            elif kind == 6:
                entry["shape"] = [0, *entry["shape"][1:]]
                entry["data_offsets"] = [0, 0]
            else:
                entries[f"{name}x"] = entry
        return self._file(self._json(entries))

    def _with_head(self) -> bytes:
        text = self._json(self.entries)
        size = self.choice.choice(
            (0, 1, 7, 8, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**64 - 1, 100_000_001, 99_999_999)
        )
        return self._file(text, size)

    def _with_other_head(self) -> bytes:
        first = next(iter(self.entries))
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        return self._file(self.choice.choice((
            b"", b"[]", b"null", b"5", b"[" * 100_000, b'{"a":' * 50_000, b"{" * 9, b"\xff\xfe{}", b"\xef\xbb\xbf{}",
            b"{}", b" " * 100 + b"{}", b'{"a": 1, "a": 2}', b'{"__metadata__": {}, "__metadata__": 5}',
            b'{"a": ' + b"9" * 100_000 + b"}", b'{"x": {"dtype": "F32", "shape": [1e999]}}', self.choice.randbytes(200),
            self._json(self.entries)[:-1] + f', "{first}": 5}}'.encode(), self._json({"\ud800": entry}),
            b'{"a": [' + b"[]," * self.choice.choice((10, 1_000_000)) + b"[]]}",
            self._json({f"t{number}": entry for number in range(20_000)}),
        )))  # fmt: skip

    def _cut_or_changed(self) -> bytes:
        place = self.choice.randrange(len(self.whole))
        if self.choice.random() < 0.5:
            return self.whole[:place]
        place = self.choice.choice((place, self.choice.randrange(3000)))
        return self.whole[:place] + self.choice.randbytes(self.choice.choice((1, 4, 100))) + self.whole[place + 4 :]

    def next(self) -> bytes:
        makers = [self._with_entries] * 4 + [self._with_metadata] * 2 + [self._cut_or_changed] * 2
        return self.choice.choice([*makers, self._with_head, self._with_other_head])()


def _noted(choice: Random) -> bytes:
    """What may be in the host's file of what its user says of a LoRA."""
    value = choice.choice(("OUTD", ":lbw=OUTD", "<", "a\nb", "x" * 10_001, "\ud800", 5, None, [], {}, True, 1e999))
    content = {"activation text": json_value(choice), own_default.KEY: value, "preferred weight": json_value(choice)}
    try:
        text = json.dumps(content, ensure_ascii=choice.random() < 0.8).encode(errors="surrogatepass")
    except RecursionError:
        text = b""
    return choice.choice((
        text, text, text, text[: choice.randrange(len(text) + 1)], b"\xef\xbb\xbf" + text, b"[" * 5000, b"[]", b"",
        b'{"a":' * 960 + b"1" + b"}" * 960, b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", choice.randbytes(100),
        b"\0" * 100, b"[" + b"1," * 600_000 + b"1]", text.decode("utf-8", "replace").encode("utf-16"),
    ))  # fmt: skip


SPECIAL = ("pipe", "folder", "link to nothing", "link to itself", "link to zeros", "link to nothing's device", "gone")


def put_special(path: Path, kind: str) -> None:
    """Put something that is no file with data in a file's place."""
    remove(path)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind.startswith("link"):
        path.symlink_to(
            {"link to nothing": "nowhere", "link to itself": path.name, "link to zeros": "/dev/zero"}.get(
                kind, "/dev/null"
            )
        )


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif os.path.lexists(path):
        path.unlink()


class Readers:
    """All of ours that read a network file, or what is beside it."""

    def __init__(self, host: Host, path: Path, watch: Watch) -> None:
        self.host, self.path, self.watch = host, path, watch
        self.beside = own_default.metadata_file(str(path))

    def _try(self, shown: str, what: str, act: Callable[[], Any], *expected: type[BaseException]) -> None:
        outcome = self.watch.attempt(f"{what}: {shown}", act, expected=expected)
        if isinstance(outcome, BaseException) and (not str(outcome).strip() or len(str(outcome)) > 1000):
            self.watch.report.find("a message that says nothing, or too much", f"{what}: {short(str(outcome))}")

    def of_network(self, shown: str, *, is_whole: bool) -> None:
        """
        Args:
            is_whole: whether the host reads the file, too, which takes longer.
        """
        self._try(shown, "head", lambda: head.read(str(self.path)))
        self._try(shown, "origin", lambda: origin.of_file(str(self.path)))
        self._try(shown, "source", self._source, BakeError)
        if is_whole:
            self._try(shown, "layers", lambda: self.host.backend.changed_layers(NAME))
            self._try(shown, "strengths", lambda: self.host.backend.strengths(NAME), UnmeasurableError)
            order = Order(f"<lora:{NAME}:1:lbw=OUTD>")
            self._try(
                shown,
                "look",
                lambda: bake_actions.look(order, "new", self.host.backend, Progress()),
                BakeError,
                UnmeasurableError,
            )

    def _source(self) -> None:
        source = Source(NAME, None, str(self.path))
        for named in source.named[:50]:
            for name in named.tensors.values():
                source.shape(name)
                foreign_names.scale(source.metadata, name, 4)
        described = Described(NAME, source.metadata, "0" * 64)
        from datetime import datetime

        describe(
            "new",
            [described],
            (),
            SD1,
            kinds=set(),
            ranks=[],
            alphas=[],
            made=datetime.now(),
            notes=(),
            with_words=True,
        )

    def of_notes(self, shown: str) -> None:
        from lbw.hosts import lora_folder

        self._try(shown, "own default", lambda: own_default.read(self.beside))
        self._try(shown, "own default, as the API tells it", lambda: self.host.backend.own_default(NAME))
        self._try(shown, "notes", lambda: lora_folder._joined([lora_folder._read(self.beside)]))
        before = self.beside.read_bytes() if self.beside.is_file() and not self.beside.is_symlink() else None
        self._try(
            shown, "own default, saved", lambda: own_default.write(self.beside, "OUTS:stop=5"), OSError, ValueError
        )
        if before is not None and self.beside.read_bytes() != before:
            self._expect_the_rest_is_kept(before, shown)

    def _expect_the_rest_is_kept(self, before: bytes, shown: str) -> None:
        then, now = json.loads(before), json.loads(self.beside.read_bytes())
        then.pop(own_default.KEY, None)
        if now.pop(own_default.KEY, None) != "OUTS:stop=5" or repr(then) != repr(now):
            self.watch.report.find("a file beside a LoRA has lost something", shown)


def run(host: Host, count: int, seed: int) -> Report:
    watch = Watch("files", limit_ms=LIMIT_MS, limit_mb=LIMIT_MB)
    choice = Random(seed)
    folder = host.webui.lora_folder
    path = folder / f"{NAME}.safetensors"
    tensors = load_file(folder / "t_lora.safetensors")
    whole = save({name: tensors[name] for name in sorted(tensors)[:12]})
    path.write_bytes(whole)
    host.backend.network_names(renewed=True)
    breaker, readers = Breaker(whole, choice), Readers(host, path, watch)
    files = 0
    with listening() as errors:
        for number in Limits.numbers(count):
            files += 1
            if number % 50 < len(SPECIAL):
                kind = SPECIAL[number % 50]
                put_special(path, kind)
                put_special(readers.beside, kind)
                readers.of_network(kind, is_whole=kind not in ("pipe", "link to zeros"))  # for which the host waits
                readers.of_notes(kind)
                remove(readers.beside)
                remove(path)
                continue
            content, notes = breaker.next(), _noted(choice)
            path.write_bytes(content)
            readers.of_network(short(content[8:]), is_whole=number % 10 == 0)
            readers.beside.write_bytes(notes)
            readers.of_notes(short(notes))
            if number % 1000 == 999:
                print(f"files: {number + 1}, {len(watch.report.findings)} findings", flush=True)
    for line in errors.lines:
        watch.report.find(f"an error in the log: {short(line, 100)}", line)
    remove(readers.beside)
    remove(path)
    watch.report.tried = files
    host.backend.network_names(renewed=True)
    return watch.end()
