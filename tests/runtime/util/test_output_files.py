"""Output files of the commands of ``jepa-runtime``: where they are written, and how they fail."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.output_files import check_writable, write_file
from tests.errors import code

COMMANDS = (
    "run BUNDLE --source two_rooms --json OUT",
    "run BUNDLE --source two_rooms --black-box OUT",
    "record BUNDLE --source two_rooms --output OUT.mcap",
    "replay none.mcap BUNDLE --output OUT.mcap",
    "replay none.mcap BUNDLE --output new.mcap --json OUT",
    "whatif none.mcap BUNDLE --at 0 --html OUT",
    "report none.mcap BUNDLE --png OUT",
    "view none.mcap BUNDLE --output OUT",
    "view BUNDLE --source two_rooms --output OUT",
    "profile BUNDLE --json OUT",
    "drive BUNDLE --json OUT",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["report.json", "new", "encoder/new"])
def test_output_inside_a_bundle_is_rejected(
    toy_bundle: Path, tmp_path: Path, command: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
    reported = command.replace("BUNDLE", str(bundle)).replace("OUT", str(bundle / out))
    assert main(reported.split()) == 1
    assert f"lies in, {bundle}, which is read: write into another file" in capsys.readouterr().err
    Bundle.open(bundle)


@pytest.mark.parametrize("command", [*COMMANDS, "compare none.json none.json --json OUT"])
@pytest.mark.parametrize("circle", [False, True], ids=["below a file", "below links in a circle"])
def test_unwritable_output_is_reported_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    circle: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if circle:
        Path("notes").symlink_to("notes")
    else:
        Path("notes").write_text("kept")
    assert main(command.replace("BUNDLE", "none").replace("OUT", "notes/new").split()) in (1, 2)
    assert re.search(r"notes/new(\.mcap)?: cannot be written: ", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize(
    "command",
    [
        "run none --source two_rooms --json OUT --html OUT",
        "replay none.mcap none --output OUT.mcap --json OUT.mcap",
        "whatif none.mcap none --at 0 --json OUT --html new/../OUT",
        "report none.mcap --html OUT --png OUT",
        "compare none.json none.json --json OUT --markdown OUT",
        "profile none --json OUT --html OUT",
        "drive none --html OUT --png OUT",
    ],
)
def test_two_outputs_in_one_file_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.replace("OUT", "out").split()) in (1, 2)
    assert "is specified twice as output: name another file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_write_replaces_the_file_or_leaves_it_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "report.html"
    write_file(target, "text")
    with pytest.raises(JepaRuntimeError, check=code("output.not_writable")):
        write_file(target.parent, "text")
    with pytest.raises(JepaRuntimeError, check=code("output.not_writable")):
        check_writable(target / "x")
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with pytest.raises(JepaRuntimeError, check=code("output.not_writable")):
        write_file(target, "more")
    assert [path.read_text() for path in target.parent.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("step", "number"), [("replace", errno.EBUSY), ("replace", errno.EPERM), ("open", errno.EROFS)]
)
def test_write_overwrites_a_file_that_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    """A mount point; a file of another account in a sticky folder; a read-only folder."""
    target = tmp_path / "report.json"
    target.write_text("before")
    monkeypatch.setattr(os if step == "replace" else Path, step, failing(number, suffix=".tmp"))
    check_writable(target)
    write_file(target, "text")
    monkeypatch.undo()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text"]


def failing(number: int, suffix: str = "") -> Callable[..., Any]:
    """Return a function that fails with this errno for names with this suffix, and else opens the path."""
    opens = Path.open

    def method(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.endswith(suffix):
            raise OSError(number, os.strerror(number))
        return opens(path, *args, **kwargs)

    return method


def test_pipes_devices_and_links_are_written_in_place(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "file")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_file(pipe, "text")
        assert pipe.is_fifo(), "a reader would wait forever"
        assert read.result() == "text"
    write_file(link, "text")
    assert link.is_symlink() and (tmp_path / "file").read_text() == "text"


def test_write_accepts_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_file(tmp_path / "report.html", os.fsdecode(b"of caf\xe9.mcap"))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == r"of caf\udce9.mcap"


def test_reader_that_closes_after_the_first_lines_sees_no_traceback(toy_bundle: Path) -> None:
    run = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-c", run, "info", toy_bundle, "--json"], stdout=closed, stderr=subprocess.PIPE
        )
    assert ended.stderr == b""
    assert ended.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_unwritable_output_is_reported_without_a_verdict(toy_bundle: Path) -> None:
    ended = ended_with(">/dev/full", "info", toy_bundle)
    assert ended.stderr == (
        b"jepa-runtime: error: standard output: No space left on device [cli.output_failed]\n"
    )
    assert ended.returncode == os.EX_IOERR
    # Python has a separate exit status for a standard error that cannot be written.
    assert ended_with("2>/dev/full", "compare", "none.json", "none.json").returncode == 120


def test_exit_status_with_closed_standard_output_is_the_verdict(toy_bundle: Path) -> None:
    ended = ended_with(">&-", "info", toy_bundle)
    assert (ended.returncode, ended.stderr) == (0, b"")


def ended_with(redirection: str, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command with its output redirected by a shell."""
    run = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", run, *args],
        stderr=subprocess.PIPE, env=buffered,
    )  # fmt: skip
