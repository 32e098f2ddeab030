"""``jepa-runtime update`` on signed repositories: effects, output and exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jepa_runtime.bundle import seal
from jepa_runtime.cli import main
from jepa_runtime.commands.update_view import Transfer, summary
from jepa_runtime.ota import audit_log, state
from jepa_runtime.ota.robot import AUDIT, STATE, utc_now
from jepa_runtime.ota.state import Phase
from tests.ota.fleets import Fleet, edit
from tests.ota.servers import FaultServer


@pytest.fixture
def fleet(tmp_path: Path, toy_bundle: Path, capfd: pytest.CaptureFixture[str]) -> Fleet:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    assert "is provisioned" in capfd.readouterr().out
    return fleet


def status_json(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capfd.readouterr().out)
    return content


def test_signed_release_passes_the_real_gate_and_serves(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("check") == 0
    assert "release 1 (2.0.0) is offered" in capfd.readouterr().out
    assert fleet.version == "1.0.0"
    assert fleet.run("apply") == 0
    output = capfd.readouterr()
    assert output.out == "updated; active model: toy 2.0.0, release 1 of stable\n"
    assert "probing the candidate" in output.err
    assert "comparing" not in output.err, "the robot names no source to compare on"
    assert fleet.version == "2.0.0"
    assert fleet.run("apply") == 0
    assert "nothing installed" in capfd.readouterr().out

    assert fleet.run("status") == 0
    output = capfd.readouterr()
    for words in ("toy 2.0.0, release 1 of stable", "toy 1.0.0"):
        assert words in output.out
    assert fleet.run("history") == 0
    assert "time (UTC)" in capfd.readouterr().out
    assert fleet.run("history", "--json") == 0
    entries = json.loads(capfd.readouterr().out)
    assert entries[0]["event"] == "provisioned"
    probed = next(entry["facts"] for entry in entries if entry["event"] == "probed")
    assert probed["latency_p99_ms"] > 0
    assert fleet.run("verify") == 0
    assert "all hashes match" in capfd.readouterr().out


def test_output_escapes_terminal_control_characters(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    wipes = "\x1b[2K\rall is well"
    now = replace(state.load(fleet.root / STATE), result="unchanged", reason=f"the fleet requests {wipes}")
    state.save(fleet.root / STATE, replace(now, alarm=wipes))
    audit_log.AuditLog(fleet.root / AUDIT, utc_now).append("rejected", version=wipes)
    for action, status in (("status", 5), ("history", 0)):
        assert fleet.run(action) == status
        output = capfd.readouterr()
        assert r"\x1b[2K\rall" in output.out and "\x1b[2K" not in output.out + output.err
    Transfer(Console(), has_frames=False).on_state(replace(now, phase=Phase.CHECK), wipes)
    assert "\x1b" not in summary(now) + capfd.readouterr().out


def test_model_with_different_outputs_is_rejected_with_status_3(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = fleet.bundles[1].path
    golden = dict(np.load(folder / "golden.npz"))
    golden["latents"] += 1
    np.savez(folder / "golden.npz", **golden)
    fleet.publish(seal(folder, fleet.bundles[1].manifest), 1)
    assert fleet.run("apply", "--json") == 3
    state = status_json(capfd)
    assert state["result"] == "rejected" and "does not reproduce its golden outputs" in state["reason"]
    assert fleet.version == "1.0.0"
    assert fleet.run("status") == 0
    assert "once, until" in " ".join(capfd.readouterr().out.split())
    assert fleet.run("apply") == 3
    assert re.search(
        r"was rejected until .* `jepa-runtime update apply --retry-rejected`", capfd.readouterr().out
    )


def test_repository_with_older_metadata_is_an_error(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    timestamp = fleet.repository.file("timestamp")
    old = timestamp.read_bytes()
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    timestamp.write_bytes(old)
    capfd.readouterr()
    assert fleet.run("apply", "--json") == 1
    assert status_json(capfd)["result"] == "failed"
    shutil.rmtree(fleet.root / "meta")
    assert fleet.run("apply", "--json") == 1, "the floors hold without the metadata"
    assert fleet.version == "2.0.0"


def test_update_from_a_usb_stick_is_installed(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    stick = fleet.repository.folder.rename(tmp_path / "stick")
    assert fleet.run("apply", "--from", str(stick)) == 0
    assert fleet.version == "2.0.0"


@pytest.mark.parametrize("action", ["apply", "check"])
def test_folder_without_a_repository_is_a_usage_error_and_no_failed_update(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str], action: str
) -> None:
    def stored_files() -> str:
        assert fleet.run("status", "--json") == fleet.run("history", "--json") == 0
        return capfd.readouterr().out

    before, stick = stored_files(), tmp_path / "stick"
    for _ in range(2):
        assert fleet.run(action, "--from", str(stick)) == 1
        assert f"{stick}: not a repository" in capfd.readouterr().err
        stick.mkdir(exist_ok=True)
    assert stored_files() == before


def test_update_over_the_network_with_targets_on_another_server_is_installed(fleet: Fleet) -> None:
    fleet.publish(fleet.bundles[1], 1)
    with (
        FaultServer(fleet.repository.folder) as server,
        FaultServer(fleet.repository.folder / "targets") as targets,
    ):
        edit(fleet.root, repository=server.url, targets=targets.url)
        assert fleet.run("apply") == 0
    assert fleet.version == "2.0.0"
    assert all(path.startswith("metadata/") for path, _ in server.requests)
    assert any(path.endswith(".report.json") for path, _ in targets.requests)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chanel": "beta"}, "chanel: unknown field: did you mean channel?: see docs/update-config.md"),
        ({"hawkbit": {"url": "u", "tokenfile": "t"}}, "did you mean hawkbit.token_file or hawkbit.token?"),
        (
            {"hawkbit": {"url": "u", "x": 1}},
            "unknown field: the fields are url, tenant, token_file, token: see docs",
        ),
        ({"poll_s": 0}, "poll_s: Input should be greater than or equal to 1"),
        ({"fetch": {"red_s": 5}}, "fetch.red_s: unknown field: did you mean fetch.read_s?"),
        ({"fetch": {"connect_s": 0}}, "fetch: connect_s must be above 0, got 0: see docs"),
        ({"probe": {"wall_s": 0}}, "probe: wall_s must be above 0, got 0: see docs"),
        ({"probe": {"memory_mb": -1}}, "probe: memory_mb must be above 0, got -1"),
        ({"fetch": {"read_s": 900}}, "connect_s and read_s must be below 900 s, got 900"),
    ],
)
def test_invalid_provision_options_are_reported(
    fleet: Fleet, capfd: pytest.CaptureFixture[str], fields: dict[str, Any], reason: str
) -> None:
    edit(fleet.root, **fields)
    assert fleet.run("apply") == 1
    error = capfd.readouterr().err
    assert reason in error and "config.json" in error


def test_reason_that_is_not_utf_8_does_not_prevent_a_rollback(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    assert fleet.run("apply", "--from", os.fsdecode(b"/media/\xfc")) == 1
    assert fleet.run("rollback", "--reason", os.fsdecode(b"it grips at \xfcber 9 N")) == 0
    assert fleet.version == "1.0.0"
    capfd.readouterr()
    assert fleet.run("status", "--json") == 0
    assert "it grips at ?ber 9 N" in capfd.readouterr().out
    assert fleet.run("verify") == 0


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", None])
def test_provision_with_an_invalid_root_is_rejected(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str | None
) -> None:
    inputs, fleet.root = tmp_path / "given.json", tmp_path / "another"
    inputs.write_bytes((fleet.repository.folder / "metadata" / name).read_bytes() if name else b"<html>")
    if name == "1.root.json":
        content = json.loads(inputs.read_bytes())
        content["signed"]["version"] = 2
        inputs.write_text(json.dumps(content))
    assert fleet.provision("--trusted-root", str(inputs)) == 1
    assert f"{inputs}: not valid root metadata" in capfd.readouterr().err
    assert not fleet.root.exists()


def test_repository_that_is_neither_a_web_server_nor_a_folder_is_rejected(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.root = tmp_path / "another"
    assert fleet.provision("--repository", "ftp://updates.example") == 1
    assert "ftp://updates.example: unsupported address: use http://" in capfd.readouterr().err


def test_repository_folder_is_found_from_another_working_directory(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fleet.repository.folder)
    fleet.root = tmp_path / "another"
    assert fleet.provision("--repository", ".", "--targets", "targets") == 0
    monkeypatch.chdir("/")
    assert fleet.run("check") == 1, "nothing is published"
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("check") == 0


def test_rollback_pin_and_unpin(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    assert fleet.run("rollback", "--reason", "it drifts") == 0
    assert fleet.version == "1.0.0"
    fleet.publish(fleet.bundles[2], 2)
    assert fleet.run("pin") == 0
    capfd.readouterr()
    assert fleet.run("apply", "--json") == 0
    assert "pinned" in status_json(capfd)["reason"] and fleet.version == "1.0.0"
    assert fleet.run("unpin") == 0 and fleet.run("apply") == 0
    assert fleet.version == "3.0.0"
    capfd.readouterr()
    assert fleet.run("history") == 0
    assert "it drifts" in capfd.readouterr().out


def test_output_to_a_file_or_pipe_has_one_line_per_entry(
    fleet: Fleet, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    why = "it drifts to the left " * 10
    state.save(fleet.root / STATE, replace(state.load(fleet.root / STATE), alarm=why))
    audit_log.AuditLog(fleet.root / AUDIT, utc_now).append("rejected", reason=why)
    for action, status in (("status", 5), ("history", 0)):
        assert fleet.run(action) == status
        assert why.strip() in capfd.readouterr().out


def test_approve_and_cancel_without_a_waiting_update_are_reported(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fleet.run("approve") == 1
    assert "no candidate waits for approval (phase idle)" in capfd.readouterr().err
    assert fleet.run("cancel") == 1
    assert "no update is in progress" in capfd.readouterr().err


def test_verify_names_files_corrupted_on_disk(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    report = (fleet.root / "current").resolve() / "report.json"
    report.chmod(0o644)
    report.write_text("{}")
    assert fleet.run("verify", "--json") == 1
    result = status_json(capfd)["found"]
    assert "report.json: " in result["current"] and result["current"].startswith("FAILED")
    assert not result["state"].startswith("FAILED")


def test_verify_checks_slots_without_a_link(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    before = (fleet.root / "current").resolve()
    fleet.publish(fleet.bundles[1], 1)
    assert fleet.run("apply") == 0
    assert (fleet.root / "current").resolve() != before != (fleet.root / "good").resolve()
    capfd.readouterr()
    (before / "report.json").chmod(0o644)
    (before / "report.json").write_text("{}")
    assert fleet.run("verify", "--json") == 1
    result = status_json(capfd)["found"]
    assert result["slots"].startswith("FAILED") and "report.json: " in result["slots"]
    assert not result["current"].startswith("FAILED")


def test_lost_state_is_rebuilt(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    (fleet.root / "state.json").unlink()
    assert fleet.run("apply") == 1
    assert "--rebuild" in capfd.readouterr().err
    assert fleet.run("provision", "--rebuild") == 0
    assert fleet.run("verify") == 0


@pytest.mark.parametrize(
    "action", ["apply", "check", "rollback", "status", "pin", "approve", "cancel", "verify"]
)
def test_folder_without_a_robot_is_reported_and_unchanged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], action: str
) -> None:
    assert main(["update", action, "--robot", str(tmp_path)]) == 1
    output = capfd.readouterr()
    assert "jepa-runtime update provision" in output.out + output.err
    assert not list(tmp_path.iterdir())


def test_provision_with_an_invalid_bundle_leaves_no_partial_robot(fleet: Fleet, tmp_path: Path) -> None:
    fleet.root = tmp_path / "another"
    assert fleet.provision(bundle=tmp_path / "nowhere") == 1
    assert not fleet.root.exists()


def test_history_of_zero_entries_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["update", "history", "-n", "0"])
    assert "argument -n: must be an integer of at least 1, got 0" in capfd.readouterr().err


def test_robot_without_its_trusted_root_reports_it(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    (fleet.root / "root.json").unlink()
    assert fleet.run("apply") == 1
    assert "root.json: cannot read the trusted root: No such file or directory" in capfd.readouterr().err


def test_provision_names_missing_options(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["update", "provision", "--robot", str(tmp_path / "new"), "--repository", "/r"]) == 1
    assert "add --trusted-root, --model, --hardware" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
