"""The file with what a critic has learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_runtime.critic import CriticState, read_critic_state, write_critic_state
from jepa_runtime.errors import CriticError
from tests.errors import code

STATE = CriticState(1.0, 1.5, 2.0, 0.0, 0.05, 0.9, "latents", "energies")


def test_state_file_returns_the_state_for_its_model_only(tmp_path: Path) -> None:
    path = tmp_path / "critic.json"
    assert read_critic_state(path, model="a") is None
    write_critic_state(path, STATE, model="a")
    assert read_critic_state(path, model="a") == STATE
    with pytest.raises(CriticError, check=code("critic.state_mismatch")):
        read_critic_state(path, model="b")


@pytest.mark.parametrize("text", ["", "{}", "NaN", "excess", "field"])
def test_malformed_state_file_raises(tmp_path: Path, text: str) -> None:
    path = tmp_path / "critic.json"
    write_critic_state(path, STATE, model="a")
    content = json.loads(path.read_text(encoding="utf-8"))
    if text == "excess":
        content["state"]["veto_excess"] = -1.0
    elif text == "field":
        del content["state"]["limit"]
    path.write_text(json.dumps(content) if text in ("excess", "field") else text, encoding="utf-8")
    with pytest.raises(CriticError, check=code("critic.state_file_invalid")):
        read_critic_state(path, model="a")
