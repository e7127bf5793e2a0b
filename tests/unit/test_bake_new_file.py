"""A new file is whole or not there, however the block ends and whatever the file system can do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbw.bake.new_file import new_file, require_name

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")

WAYS = {
    "without a name": (),
    "hidden": ("no anonymous files",),
    "reserved": ("no anonymous files", "no links"),
    "copied": ("no links of anonymous files",),
    "copied and reserved": ("no links",),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a file system cannot do; ``os.open`` and ``os.link`` say so as on such ones."""
    lacks = WAYS[request.param]
    real_open, real_link = os.open, os.link

    def open_file(path: Any, flags: int, *args: Any, **names: Any) -> int:
        if "no anonymous files" in lacks and flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        return real_open(path, flags, *args, **names)

    def link(source: Any, target: Any, **names: Any) -> None:
        if "no links" in lacks or ("no links of anonymous files" in lacks and str(source).startswith("/proc")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source))
        real_link(source, target, **names)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "link", link)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def child(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has ``new_file``, ``os``, ``sys`` and ``path``, which is the first argument."""
    start = (
        f"import os, sys, time; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from pathlib import Path; from lbw.bake.new_file import new_file\n"
        "path = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", start + program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip()


def test_the_file_is_whole(tmp_path: Path, way: str):
    path = tmp_path / "a.safetensors"
    with new_file(path) as file:
        file.write(b"0000")
        file.write(bytes(3_000_000))
        file.seek(0)
        file.write(b"head")
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    assert path.read_bytes() == b"head" + bytes(3_000_000) + b"end"
    assert names(tmp_path) == ["a.safetensors"] and path.stat().st_nlink == 1 and file.closed


def test_nothing_stands_under_the_name_before_the_end(tmp_path: Path, way: str):
    path = tmp_path / "a.safetensors"
    with new_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not os.path.lexists(path)
        listed = names(tmp_path)
        assert all(name.startswith(".") and not name.endswith(".safetensors") for name in listed)
        assert bool(listed) == ("no anonymous files" in WAYS[way])


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_it_may_be_read_as_any_new_file(tmp_path: Path, way: str, umask: int):
    before = os.umask(umask)
    try:
        with new_file(tmp_path / "a"):
            pass
        (tmp_path / "b").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_nothing(tmp_path: Path, way: str, error: type[BaseException]):
    with pytest.raises(error, match="mine"), new_file(tmp_path / "a.safetensors") as file:
        file.write(bytes(100_000))
        raise error("mine")
    assert names(tmp_path) == [] and file.closed


def make_file(path: Path) -> None:
    path.write_text("theirs")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_file, make_folder, make_link_to_nothing])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_there_stays(tmp_path: Path, way: str, make: Callable[[Path], None], when: str):
    path = tmp_path / "a.safetensors"
    if when == "before":
        make(path)
    entered = False
    with pytest.raises(FileExistsError) as caught, new_file(path) as file:
        entered = True
        file.write(b"mine")
        make(path)
    assert entered == (when == "meanwhile") and caught.value.filename == str(path)
    assert names(tmp_path) == ["a.safetensors"]
    state = path.read_text() if path.is_file() else os.readlink(path) if path.is_symlink() else os.listdir(path)
    assert state == {make_file: "theirs", make_link_to_nothing: "nowhere", make_folder: []}[make]


@pytest.mark.parametrize("way", ["reserved", "copied and reserved"], indirect=True)
def test_a_name_is_free_again_if_the_file_cannot_take_it(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch):
    def replace(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output error"), new_file(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_what_the_disk_did_not_take_is_not_published(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch):
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"), new_file(tmp_path / "a") as file:
        file.write(b"mine")
    assert names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path, way: str):
    path = tmp_path / "none" / "a.safetensors"
    with pytest.raises(FileNotFoundError) as caught, new_file(path):
        pass
    assert caught.value.filename == str(path)


@LINUX
@pytest.mark.parametrize("last", ["file.write(bytes(300_000))", "file.write(bytes(3000))"])
def test_a_file_that_is_too_large_leaves_nothing(tmp_path: Path, last: str):
    """What is still in the buffer meets the limit at the end of the block."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        f"    with new_file(path) as file: file.write(bytes(199_000)); {last}\n"
        "except OSError as error: print(error)\n"
    )
    assert ended(child(program, tmp_path / "a")) == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}"
    assert names(tmp_path) == []


@LINUX
def test_a_full_disk_leaves_nothing(tmp_path: Path, way: str):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(OSError) as caught, new_file(tmp_path / "a") as file:
            for _ in range(100):
                file.write(bytes(50_000))
        assert caught.value.errno == errno.ENOSPC and names(tmp_path) == []
        with new_file(tmp_path / "a") as file:  # it is empty again
            file.write(bytes(400_000))
        assert names(tmp_path) == ["a"]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@LINUX
def test_a_folder_without_rights_is_told(tmp_path: Path):
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    program = (
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try:\n"
        "    with new_file(path) as file: print('entered')\n"
        "except PermissionError as error: print(error.filename)\n"
    )
    assert ended(child(program, folder / "a")) == str(folder / "a")
    assert names(folder) == []


@LINUX
def test_a_killed_process_leaves_nothing(tmp_path: Path):
    program = (
        "with new_file(path) as file:\n"
        "    file.write(bytes(1_000_000)); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    process = child(program, tmp_path / "a.safetensors")
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and names(tmp_path) == []


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path, way: str):
    old, young = tmp_path / ".lbw-0123456789abcdef.tmp", tmp_path / ".lbw-0123456789abcdee.tmp"
    others = [tmp_path / name for name in (".lbw-notes.tmp", "lbw-0123456789abcdef.tmp", "b.safetensors")]
    (tmp_path / ".lbw-0123456789abcd00.tmp").mkdir()
    for path in (old, young, *others):
        path.touch()
    for path in (old, *others, tmp_path / ".lbw-0123456789abcd00.tmp"):
        os.utime(path, (time.time() - 90_000,) * 2)
    with new_file(tmp_path / "a"):
        pass
    assert not old.exists()
    assert young.exists() and all(path.exists() for path in others)


@pytest.mark.parametrize("lacks", ["nothing", "anonymous files", "links"])
def test_of_two_processes_one_has_the_name(tmp_path: Path, lacks: str):
    path, start = tmp_path / "a.safetensors", tmp_path / "start"
    program = (
        "def no_link(*a, **n): raise PermissionError(1, 'no links')\n"
        "if sys.argv[3] != 'nothing': os.O_TMPFILE = os.O_DIRECTORY\n"
        "if sys.argv[3] == 'links': os.link = no_link\n"
        "try:\n"
        "    with new_file(path) as file:\n"
        "        file.write(sys.argv[2].encode() * 1_000_000); print('ready', flush=True)\n"
        "        while not Path(sys.argv[4]).exists(): pass\n"
        "    print('won')\n"
        "except FileExistsError: print('lost')\n"
    )
    processes = {letter: child(program, path, letter, lacks, start) for letter in "xy"}
    for process in processes.values():
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    start.touch()
    results = {letter: ended(process) for letter, process in processes.items()}
    assert sorted(results.values()) == ["lost", "won"]
    winner = next(letter for letter, result in results.items() if result == "won")
    assert path.read_bytes() == winner.encode() * 1_000_000
    assert names(tmp_path) == ["a.safetensors", "start"]


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("my lora", "my lora"), ("  a  ", "a"), ("a.safetensors", "a"), (" a.SafeTensors ", "a"), ("a,b", "a,b"),
        ("v1.5 (fp16) [x]", "v1.5 (fp16) [x]"), ("名前-é", "名前-é"), ("\U0001f600", "\U0001f600"), ("a..b", "a..b"),
        ("console", "console"), ("com10", "com10"), ("x" * 200, "x" * 200), ("é" * 100, "é" * 100),
        ("x" * 200 + ".safetensors", "x" * 200), ("a.safetensors.safetensors", "a.safetensors"),
    ],
)  # fmt: skip
def test_names_that_can_be_used(written: str, used: str):
    assert require_name(written) == used


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "empty"), (" \t", "empty"), (".safetensors", "empty"), (" .safetensors", "empty"),
        ("a/b", "it has /,"), ("..\\b", r"it has \\,"), ("/etc/passwd", "it has /,"), ("C:a", "it has :,"),
        ("a<b>c", "it has < >,"), ('a"', 'it has ",'), ("a|b", r"it has \|,"), ("a?", r"it has \?,"),
        ("a*b*", r"it has \*,"), ("a\uff1ab", "it has \uff1a,"), ("a=b", "it has =,"), ("{}", "it has { },"),
        ("..", "begins with a dot"),
        (".hidden", "begins with a dot"), ("a.", "ends with a dot"), ("a..safetensors", "ends with a dot"),
        ("a\nb", "control characters"), ("a\0", "control characters"), ("a\x7fb", "control characters"),
        ("a\u2028b", "line breaks"), ("a\ud800", "half a character"), ("CON", "CON is a device"),
        ("nul.v2", "nul.v2 is a device"), ("Com1", "is a device"), ("lpt\xb2.x", "is a device"),
        ("aux .b", "is a device"), ("nul.safetensors", "is a device"), ("x" * 201, "201 bytes"),
        ("é" * 101, "202 bytes"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_used(written: str, why: str):
    with pytest.raises(ValueError, match=f"^name of the new LoRA: .*{why}.*; expected") as caught:
        require_name(written)
    assert str(caught.value).isprintable()
