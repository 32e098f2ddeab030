"""Arguments that several commands of ``jepa-runtime`` take."""

from __future__ import annotations

import pytest

from jepa_runtime.cli import main


@pytest.mark.parametrize("rate", ["1e10", "1e-300", "nan", "-1"])
@pytest.mark.parametrize("name", ["run", "record", "profile", "view", "report"])
def test_a_rate_that_no_robot_has_is_refused(
    name: str, rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([name, f"--rate={rate}"])
    assert "argument --rate: must be " in capsys.readouterr().err
