"""A robot accepts any input or rejects it with a coded error.

``python -m tests.ota.fuzz.run`` runs a million inputs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import TrustError
from tests.errors import code
from tests.ota.campaigns import results
from tests.ota.fuzz.mutate import mutated
from tests.ota.fuzz.run import feed
from tests.ota.fuzz.targets import Target, targets
from tests.ota.repositories import Repository
from tests.ota.trusted_robots import Robot, resign


@pytest.fixture(scope="module")
def readers(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return targets(tmp_path_factory.mktemp("readers"), toy_bundle)


def test_reader_accepts_valid_input(readers: Sequence[Target]) -> None:
    for reader in readers:
        if reader.name != "answer of a server":  # an answer to another request
            reader.read(reader.seeds[0])


def test_reader_with_mutated_input_raises_only_coded_errors(readers: Sequence[Target]) -> None:
    for reader in readers:
        fed = feed(reader, range(int(300 * reader.share) + 10))
        assert fed.findings == {}, reader.name
        assert fed.rejected > 0, reader.name


@settings(max_examples=300)
@given(data=st.data())
def test_reader_with_arbitrary_bytes_raises_only_coded_errors(
    readers: Sequence[Target], data: st.DataObject
) -> None:
    reader = data.draw(st.sampled_from([reader for reader in readers if reader.share > 0.1]))
    content = data.draw(
        st.binary(max_size=300)
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda tree: json.dumps(tree).encode())
    )
    with suppress(*reader.errors):
        reader.read(content)


def test_role_name_that_is_not_a_string_is_reported(robot: Robot, repository: Repository) -> None:
    """A finding of a million inputs: python-tuf accepts any name, and fails where it uses it."""
    signed = json.loads(repository.file("targets").read_bytes())["signed"]
    signed["delegations"]["roles"][0]["name"] = 7
    resign(repository, "targets", signed)
    with pytest.raises(TrustError, check=code("trust.invalid_metadata")):
        robot.fetch()


def test_fuzz_run_with_an_unexpected_exception_records_a_finding_with_its_seed() -> None:
    def read(data: bytes) -> None:
        if b"\0" in data:
            raise KeyError("a zero")

    fed = feed(Target("weak", (b"abc", b"\0\0"), read, (ValueError,)), range(50))
    (reported,) = fed.findings.values()
    seed = int(reported.removeprefix("seed ").partition(":")[0])
    assert b"\0" in mutated(Random(f"weak {seed}"), (b"abc", b"\0\0"), is_json=False)


def test_fuzz_run_with_a_slow_input_records_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.ota.fuzz.run._SLOW_S", 0.05)

    def read(_: bytes) -> None:
        while True:
            pass

    fed = feed(Target("slow", (b"abc",), read, ()), range(1))
    assert [name.partition(" ")[0] for name in fed.findings] == ["Hung"]


def test_fuzz_results_are_stored_per_target(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    results.keep("fuzzing", {"findings": 0}, path)
    results.keep("power", {"findings": 1}, path)
    state = json.loads(path.read_bytes())
    assert (state["fuzzing"]["findings"], state["power"]["findings"]) == (0, 1)
    assert state["power"]["versions"]["tuf"]
