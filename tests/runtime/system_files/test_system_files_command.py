"""The command ``jepa-runtime configs``: exit status and output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jepa_runtime.cli import main
from jepa_runtime.system_files.shipped import DEVICES, find_shipped
from tests.runtime.system_files.roots import snapshot


class Done(NamedTuple):
    status: int
    out: str
    err: str


Configs = Callable[..., Done]


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Configs:
    """Run the command."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Done:
        status = main(["configs", *map(str, arguments)])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def theirs(root: Path) -> Path:
    """Write a file of the user at one of our paths."""
    path = root / "etc/sysctl.d/60-jepa-dds.conf"
    path.write_text("net.core.rmem_max = 1\n")
    return path


def test_configs_plan_apply_plan_undo(configs: Configs, root: Path) -> None:
    before = snapshot(root)
    planned = configs("plan", "--root", root)
    assert planned.status == 3 and snapshot(root) == before
    assert "new       etc/systemd/system/jepa-run.service" in planned.out
    assert "changed   etc/sysctl.d/60-jepa-dds.conf" in planned.out
    assert "-net.core.rmem_max = 1" in planned.out and "+net.core.rmem_max = 33554432" in planned.out
    assert "only the files for every robot: --device adds jetson or intel_npu" in planned.out
    applied = configs("apply", "--root", root)
    assert (applied.status, applied.err) == (0, "")
    assert "    systemctl daemon-reload\n" in applied.out and "    sysctl --system\n" in applied.out
    again = configs("plan", "--root", root)
    assert again.status == 0 and "new" not in again.out
    undone = configs("undo", "--root", root)
    assert undone.status == 0 and "restored  etc/sysctl.d/60-jepa-dds.conf" in undone.out
    assert snapshot(root) == before
    assert configs("undo", "--root", root).out == "nothing is installed\n"


def test_configs_apply_several_devices_installs_all_and_sets_modes(configs: Configs, root: Path) -> None:
    devices = [argument for device in DEVICES for argument in ("--device", device)]
    assert configs("apply", "--root", root, *devices).status == 0
    for file in find_shipped(DEVICES):
        assert (root / file.path).read_bytes() == file.content
    assert os.access(root / "usr/local/lib/jepa-edge/power-mode", os.X_OK)
    assert not os.access(root / "etc/default/jepa-power-mode", os.X_OK)


def test_configs_json_has_files_and_next_steps(configs: Configs, root: Path) -> None:
    def json_of(*arguments: str) -> Any:
        done = configs(*arguments, "--root", str(root), "--json")
        return json.loads(done.out)

    files = {file["path"]: file for file in json_of("plan")["files"]}
    changed = files["etc/sysctl.d/60-jepa-dds.conf"]
    assert (changed["action"], changed["device"]) == ("changed", "common")
    assert "+net.core.rmem_max = 33554432" in changed["diff"]
    assert "systemctl daemon-reload" in json_of("apply")["next"]
    undone = json_of("undo")
    assert undone["restored"] == ["etc/sysctl.d/60-jepa-dds.conf"] and undone["kept"] == []


def test_configs_modified_file_is_rejected_or_kept_on_request(configs: Configs, root: Path) -> None:
    configs("apply", "--root", root)
    (root / "etc/sysctl.d/60-jepa-dds.conf").write_text("net.core.rmem_max = 2\n")
    planned = configs("plan", "--root", root)
    assert planned.status == 3
    assert "conflict  etc/sysctl.d/60-jepa-dds.conf: was changed since it was installed" in planned.out
    rejected = configs("undo", "--root", root)
    assert rejected.status == 1 and "--keep-changed; nothing was undone" in rejected.err
    stored = configs("undo", "--root", root, "--keep-changed")
    assert stored.status == 0 and "kept      etc/sysctl.d/60-jepa-dds.conf" in stored.out
    folder = root / "etc/sysctl.d"
    assert (folder / "60-jepa-dds.conf").read_text() == "net.core.rmem_max = 2\n"
    assert (folder / "60-jepa-dds.conf.before-jepa-edge").read_text() == "net.core.rmem_max = 1\n"


def test_configs_missing_root_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["configs", "plan", "--root", str(tmp_path / "nowhere")])
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become somebody else"
)
def test_configs_on_this_machine_requires_root(tmp_path: Path) -> None:
    program = "from jepa_runtime.cli import main; raise SystemExit(main(['configs', 'apply']))"
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*unprivileged, sys.executable, "-B", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if done.returncode == 127 or ("Permission denied" in done.stderr and "jepa-runtime" not in done.stderr):
        pytest.skip(f"another account cannot reach this Python: {done.stderr.strip()}")
    assert done.returncode == 1 and done.stderr.startswith(
        "jepa-runtime: error: /: only root may change it: run this with sudo"
    )
