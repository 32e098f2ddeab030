"""The command ``jepa-runtime doctor``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.doctor.checks import CHECKS
from tests.runtime.doctor import roots
from tests.runtime.doctor.faults import JETSON, NPU_LAPTOP, Fault
from tests.runtime.doctor.roots import Root

_MAIN = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
_SEVERITIES = ["error", "warning", "unknown", "info", "ok"]
# Reports every event that could change something on standard error.
_WATCHED = """
import os, sys
def watch(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    changes = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.link",
        "os.symlink", "os.truncate", "os.utime", "os.setxattr", "os.kill", "os.system", "os.exec",
        "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen", "socket.connect", "socket.bind")
    # urllib3 finds out in this way whether there is IPv6, when it is imported.
    asks = event == "socket.bind" and args[1][:2] == ("::1", 0)
    if writes or event in changes and not asks:
        os.write(2, f"WATCHED {event} {args}\\n".encode())
sys.addaudithook(watch)
"""


def _broken(tmp_path: Path) -> Root:
    root = roots.meteor_lake(tmp_path / "root")
    for fault in {fault.check: fault for fault in NPU_LAPTOP if not fault.hides}.values():
        fault.plant(root)
    root.diagnose()
    return root


def _run(*args: str, program: str = _MAIN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", program, "doctor", *args], capture_output=True, text=True, timeout=60
    )


def test_doctor_on_this_machine_writes_a_valid_report() -> None:
    done = _run("--json", "-")
    report = json.loads(done.stdout)
    severities = [finding["severity"] for finding in report["findings"]]

    assert done.stderr == ""
    assert done.returncode == (3 if {"error", "warning"} & set(severities) else 0)
    assert report["schema"] == 1
    assert report["machine"]["architecture"] == os.uname().machine
    assert severities == sorted(severities, key=_SEVERITIES.index)
    openvino = next(finding for finding in report["findings"] if finding["check"] == "engine.openvino")
    assert openvino["severity"] == "ok"


def test_doctor_healthy_machine_exits_0_and_prints_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots.orin_nano(tmp_path / "root").diagnose()

    assert main(["doctor", "--root", str(tmp_path / "root")]) == 0
    assert capsys.readouterr().out.startswith("NVIDIA Jetson Orin Nano")


def test_doctor_with_faults_exits_3_and_sorts_by_severity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _broken(tmp_path)

    assert main(["doctor", "--root", str(root.root)]) == 3
    output = capsys.readouterr().out
    assert output.index("npu.libraries") < output.index("cpu.governor")
    assert "$ sudo timedatectl set-ntp true" in output
    assert "engine.pycuda" not in output


def test_doctor_remedy_is_printed_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _broken(tmp_path)
    main(["doctor", "--root", str(root.root)])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    steps = [step for finding in root.diagnose().problems for step in finding.verdict.remedy]
    assert max(map(len, steps)) > 80
    assert all(step in lines if step.startswith("#") else f"$ {step}" in lines for step in steps)


def test_doctor_verbose_prints_all_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = roots.thor(tmp_path / "root").diagnose()

    main(["doctor", "--root", str(tmp_path / "root"), "--verbose"])

    output = capsys.readouterr().out
    assert all(finding.check in output for finding in diagnosis.findings)


def test_doctor_bundle_adds_its_checks(two_rooms_bundle: Path, tmp_path: Path) -> None:
    roots.desktop(tmp_path / "root").diagnose()
    report = tmp_path / "report.json"

    args = ["--root", str(tmp_path / "root"), str(two_rooms_bundle), "--json", str(report)]
    assert main(["doctor", *args]) == 0

    result = {finding["check"]: finding["severity"] for finding in json.loads(report.read_text())["findings"]}
    assert result["bundle.target"] == result["memory.bundle"] == "ok"


@pytest.mark.parametrize(
    "args",
    [
        ["--root", "/dev/null/nowhere"],
        ["/dev/null/nowhere"],
        ["--json", "/dev/null/nowhere"],
        ["--fix-script", "/dev/null/nowhere"],
    ],
)
def test_doctor_unusable_path_exits_1_and_names_it(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *args]) == 1
    assert "/dev/null/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--fix-script"])
def test_doctor_output_in_the_bundle_is_rejected(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    bundle = Path(shutil.copytree(two_rooms_bundle, tmp_path / "bundle"))
    assert main(["doctor", str(bundle), option, str(bundle / "written")]) == 1
    assert "which is read: write into another file" in capsys.readouterr().err
    assert Bundle.open(bundle).path == bundle


def test_doctor_output_onto_the_recorded_facts_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = roots.desktop(tmp_path / "root")
    root.diagnose()
    recorded = tmp_path / "root.json"
    stored = recorded.read_bytes()
    assert main(["doctor", "--root", str(root.root), "--json", str(recorded)]) == 1
    assert "root.json, which is read: write into another file" in capsys.readouterr().err
    assert recorded.read_bytes() == stored


@pytest.mark.parametrize(
    ("build", "faults"), [(roots.orin_nano, JETSON), (roots.meteor_lake, NPU_LAPTOP), (roots.desktop, ())]
)
def test_fix_script_is_valid_sh_with_every_remedy(
    build: Callable[[Path], Root], faults: tuple[Fault, ...], tmp_path: Path
) -> None:
    root = build(tmp_path / "root")
    for fault in {fault.check: fault for fault in faults if not fault.hides}.values():
        fault.plant(root)
    problems = root.diagnose().problems
    script = tmp_path / "fix.sh"

    main(["doctor", "--root", str(root.root), "--fix-script", str(script)])

    text = script.read_text()
    assert text.startswith("#!/bin/sh\n") and "\nset -eu\n" in text
    for finding in problems:
        section = text.partition(f" {finding.check}: ")[2]
        assert section.startswith(finding.verdict.summary)
        assert all(step in text for step in finding.verdict.remedy)
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(commands) == len(set(commands))
    assert ("Nothing to fix" in text) == (not problems)
    subprocess.run(["sh", "-n", script], check=True, timeout=20)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True, timeout=60)


def test_doctor_opens_nothing_for_writing_and_starts_no_program() -> None:
    done = _run("--verbose", program=_WATCHED + _MAIN)

    assert done.returncode in (0, 3)
    watched = [line for line in done.stderr.splitlines() if line.startswith("WATCHED")]
    assert watched == []


def test_doctor_system_calls_change_nothing(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    calls = (
        "trace=openat,open,creat,mkdir,unlink,unlinkat,rename,renameat2,chmod,fchmodat,chown,link,symlink,"
    )
    calls += (
        "truncate,execve,connect,bind,mount,sethostname,settimeofday,clock_settime,adjtimex,clock_adjtime"
    )
    command = [sys.executable, "-B", "-c", _MAIN, "doctor"]

    done = subprocess.run(
        ["strace", "-f", "-o", log, "-e", calls, *command], capture_output=True, text=True, timeout=100
    )

    if done.returncode not in (0, 3) or not log.exists():
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()[-200:]}")
    lines = log.read_text().splitlines()
    executed = [line for line in lines if "execve(" in line and line.endswith("= 0")]
    assert any("adjtimex(" in line or "clock_adjtime(" in line for line in lines)
    assert all("modes=0" in line for line in lines if "adjtimex(" in line or "clock_adjtime(" in line)
    changes = [
        line
        for line in lines
        if re.search(r"O_WRONLY|O_RDWR|O_CREAT", line)
        # bind: urllib3 detects IPv6 when it is imported. nscd resolves account names.
        or not re.search(r"open|execve|adj|\+\+\+|---|bind\(.*htons\(0\).*\"::1\"|/nscd/socket", line)
    ]
    assert changes == []
    assert len(executed) == 1


def test_checks_match_their_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [f"| `{check.id}` | {check.condition} | {check.sources} | {check.remedy} |" for check in CHECKS]

    assert "\n".join(rows) in text
    assert len({check.id for check in CHECKS}) == len(CHECKS)
