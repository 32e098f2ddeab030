"""States of a robot that has one release and may receive a second, and a letter for each phase."""

from __future__ import annotations

from datetime import datetime, timezone

from jepa_runtime.ota.state import Installed, Phase, State

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
LETTERS = dict(
    zip(
        "CRDVSPHAWOKEGIBJ",
        (
            Phase.CHECK, Phase.RESOLVE, Phase.DOWNLOAD, Phase.VERIFY, Phase.STAGE, Phase.PROBE, Phase.SHADOW,
            Phase.ARMED, Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT, Phase.GC, Phase.IDLE,
            Phase.ROLLBACK, Phase.REJECTED,
        ),
        strict=True,
    )
)  # fmt: skip
LETTER = {phase: letter for letter, phase in LETTERS.items()}
OLD, NEW = "0" * 64, "1" * 64


def installed(sha256: str = OLD, seq: int = 1) -> Installed:
    return Installed(
        channel="stable", model_id="toy", version=f"{seq}.0.0", release_seq=seq, manifest_sha256=sha256
    )


def before_update() -> State:
    return State(current=installed(), good=installed())
