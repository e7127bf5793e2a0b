"""The host's LoRA folder as a place for new files: who may have one kept, and folders that take none."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.conftest import Bench

TAG = "<lora:t_source:0.5>"


def keep(name: str = "t_new", *, words: bool = False) -> Any:
    from lbw.bake.baking import Progress
    from lbw.hosts.backend import Backend
    from lbw.request import bake_actions
    from lbw.request.bake import Order

    return bake_actions.keep(Order(TAG), name, words, Backend(), Progress())


@pytest.fixture
def use_folder(bench: Bench) -> Iterator[Callable[[Path], None]]:
    """Have the host look for LoRA files in another folder, which gets one."""
    options, networks = bench.webui.shared.cmd_opts, bench.webui.networks
    before = options.lora_dir

    def use(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        shutil.copy(bench.webui.lora_folder / "t_lora.safetensors", folder / "t_source.safetensors")
        options.lora_dir = str(folder)
        networks.list_available_networks()

    yield use
    options.lora_dir = before
    networks.list_available_networks()


@pytest.fixture
def folder(tmp_path: Path, use_folder: Callable[[Path], None]) -> Path:
    use_folder(tmp_path / "loras")
    return tmp_path / "loras"


@pytest.fixture
def small_disk(tmp_path: Path, bench: Bench) -> Iterator[Path]:
    """A disk that has room for one LoRA, and for little more."""
    size = (bench.webui.lora_folder / "t_lora.safetensors").stat().st_size + 100_000
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def told(**options: Any) -> str:
    """What a failed baking says, in which there is no path."""
    from lbw.bake.host import BakeError

    with pytest.raises(BakeError) as caught:
        keep(**options)
    message = str(caught.value)
    assert not re.search(r"/\w+/|t_source|t_new", message) and message.endswith("Nothing was written")
    return message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""), ({"hide_ui_dir_config": True}, "--hide-ui-dir-config"),
        ({"disable_extension_access": True}, "open to others"), ({"lora_dir": None}, "no LoRA folder"),
    ],
)  # fmt: skip
def test_who_may_have_a_file_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
):
    from lbw.hosts.backend import Backend

    for name, value in options.items():
        monkeypatch.setattr(bench.webui.shared.cmd_opts, name, value)
    obstacle = Backend().keeping_obstacle()
    assert expected in obstacle and bool(obstacle) == bool(expected)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ([], True), (["--listen"], False), (["--share"], False), (["--server-name", "0.0.0.0"], False),
        (["--listen", "--enable-insecure-extension-access"], True), (["--api-auth", "a:b"], True),
    ],
)  # fmt: skip
def test_the_stand_in_is_open_to_others_as_a_real_host(arguments: list[str], allowed: bool):
    from modules import shared_cmd_options

    if not hasattr(shared_cmd_options, "parse"):
        pytest.skip("a real host reads its command line once")
    program = (
        "from modules import shared_cmd_options as found\n"
        f"found.parse({arguments!r})\n"
        "print(found.cmd_opts.disable_extension_access)\n"
    )
    folder = Path(shared_cmd_options.__file__).parents[1]
    result = subprocess.run(["python3", "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(not allowed)


def test_a_kept_file_has_no_name_until_it_is_whole(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lbw.bake.baking import Baking

    seen: list[list[str]] = []
    write = Baking.write

    def watched(self: Any, file: Any, metadata: Any) -> None:
        write(self, file, metadata)
        file.flush()
        seen.append(names(folder))

    monkeypatch.setattr(Baking, "write", watched)
    assert keep().kept == "t_new"
    assert seen == [["t_source.safetensors"]]
    assert names(folder) == ["t_new.json", "t_new.safetensors", "t_source.safetensors"]
    assert "t_new" in bench.webui.networks.available_networks


@pytest.fixture
def written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bakings that came to be written."""
    from lbw.bake.baking import Baking

    found: list[Any] = []
    write = Baking.write

    def watched(self: Any, *args: Any) -> None:
        found.append(self)
        write(self, *args)

    monkeypatch.setattr(Baking, "write", watched)
    return found


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk(
    small_disk: Path, use_folder, written: list[Any], monkeypatch: pytest.MonkeyPatch, known: bool
):
    """Which is known before, or found while the file is written."""
    use_folder(small_disk)
    if not known:
        usage = shutil.disk_usage(small_disk)._replace(free=1 << 40)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert told() == "the LoRA folder has no room for the file (No space left on device). Nothing was written"
    assert (names(small_disk), bool(written)) == (["t_source.safetensors"], not known)


@pytest.mark.parametrize("known", [True, False])
def test_a_full_disk_for_temporary_files(
    folder: Path, small_disk: Path, written: list[Any], monkeypatch: pytest.MonkeyPatch, known: bool
):
    from lbw.bake.baking import Progress
    from lbw.bake.recipe import Dtype
    from lbw.hosts.backend import Backend
    from lbw.request.bake import Order
    from lbw.request.bake_actions import NoRoomError, download

    (small_disk / "other").write_bytes(bytes(200_000))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    if not known:
        usage = shutil.disk_usage(small_disk)._replace(free=1 << 40)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(NoRoomError, match="temporary files has no room"):
        download(Order(TAG, dtype=Dtype.FP32), "t_new", False, Backend(), Progress())
    assert (names(small_disk), bool(written)) == (["other"], not known)


def test_a_disk_that_cannot_be_written(small_disk: Path, use_folder):
    use_folder(small_disk)
    subprocess.run(["mount", "-o", "remount,ro,size=64m", small_disk], check=True)
    assert told() == "the LoRA folder does not take the file (Read-only file system). Nothing was written"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO])
def test_a_folder_that_takes_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    from lbw.hosts import lora_folder

    def refuse(path: Path) -> Any:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(lora_folder, "new_file", refuse)
    assert told() == f"the LoRA folder does not take the file ({os.strerror(code)}). Nothing was written"
    assert names(folder) == ["t_source.safetensors"]


def test_a_folder_that_is_gone(folder: Path):
    """The host makes it anew when it looks for files, and then there is no LoRA to bake."""
    from lbw.engine.strengths import UnknownNetworkError

    shutil.rmtree(folder)
    with pytest.raises(UnknownNetworkError):
        keep()
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert told().startswith("the LoRA folder does not take the file (")
    folder.unlink()
    folder.mkdir()


def test_what_cannot_stand_beside_the_file_is_told_and_the_file_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lbw.hosts import lora_folder

    (folder / "t_source.png").write_bytes(b"picture")
    original = lora_folder.new_file

    def refuse(path: Path) -> Any:
        if path.suffix != ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path)

    monkeypatch.setattr(lora_folder, "new_file", refuse)
    outcome = keep(words=True)
    assert outcome.kept == "t_new"
    assert outcome.report.messages == tuple(
        f"t_new.{end} could not be written (No space left on device)" for end in ("json", "png"))
    assert names(folder) == ["t_new.safetensors", "t_source.png", "t_source.safetensors"]


def test_one_that_is_cancelled_at_its_last_layer_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lbw.bake.baking import Baking
    from lbw.bake.host import CancelledError

    write = Baking.write

    def cancelled(self: Any, *args: Any) -> None:
        write(self, *args)
        self.progress.cancel()

    monkeypatch.setattr(Baking, "write", cancelled)
    with pytest.raises(CancelledError):
        keep()
    assert names(folder) == ["t_source.safetensors"]


def test_one_that_is_cancelled_while_its_sources_are_hashed_ends(
    folder: Path, written: list[Any], monkeypatch: pytest.MonkeyPatch
):
    from lbw.bake.host import CancelledError
    from lbw.request import bake, bake_actions

    chunks: list[int] = []

    def hashes_of(sources: Any, progress: Any) -> Any:
        tick = progress.tick
        progress.tick = lambda count: (chunks.append(count), progress.cancel(), tick(count))
        return bake.hashes_of(sources, progress)

    monkeypatch.setattr(bake, "_CHUNK", 1000)
    monkeypatch.setattr(bake_actions, "hashes_of", hashes_of)
    with pytest.raises(CancelledError):
        keep()
    assert (chunks, written, names(folder)) == ([0], [], ["t_source.safetensors"])


def test_a_source_that_goes_away_is_told_without_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lbw.request import bake, bake_actions

    def hashes_of(sources: Any, progress: Any) -> Any:
        (folder / "t_source.safetensors").unlink()
        return bake.hashes_of(sources, progress)

    monkeypatch.setattr(bake_actions, "hashes_of", hashes_of)
    assert told() == "a LoRA file cannot be read any longer (No such file or directory). Nothing was written"
