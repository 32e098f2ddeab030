"""Where the commands of ``jepa-runtime`` write, and where they do not: into the bundle that they read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.commands.arguments import write_text


@pytest.mark.parametrize(
    "command",
    [
        "run --bundle BUNDLE --source two_rooms --json OUT",
        "record --bundle BUNDLE --source two_rooms --out OUT.mcap",
        "replay none.mcap --bundle BUNDLE --mcap OUT.mcap",
        "whatif none.mcap --bundle BUNDLE --at 0 --html OUT",
        "report none.mcap --bundle BUNDLE --png OUT",
        "view none.mcap --bundle BUNDLE --save OUT",
        "view --bundle BUNDLE --source two_rooms --save OUT",
        "profile --bundle BUNDLE --json OUT",
        "drive BUNDLE --json OUT",
    ],
)
@pytest.mark.parametrize("out", ["report.json", "new", "encoder/new"])
def test_nothing_is_written_into_a_bundle(
    toy_bundle: Path, tmp_path: Path, command: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
    told = command.replace("BUNDLE", str(bundle)).replace("OUT", str(bundle / out))
    assert main(told.split()) == 1
    assert f"lies in, {bundle}, which is read: write into another file" in capsys.readouterr().err
    Bundle.open(bundle)


def test_pipes_devices_and_links_are_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "file")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_text(pipe, "told")
        assert pipe.is_fifo(), "who reads from it waits for ever"
        assert read.result() == "told"
    write_text(link, "told")
    assert link.is_symlink() and (tmp_path / "file").read_text() == "told"


def test_who_reads_no_more_than_the_first_lines_sees_no_traceback(toy_bundle: Path) -> None:
    run = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as gone:
        ended = subprocess.run(
            [sys.executable, "-c", run, "info", toy_bundle, "--json"], stdout=gone, stderr=subprocess.PIPE
        )
    assert ended.stderr == b""
    assert ended.returncode == 1
