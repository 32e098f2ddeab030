"""The manifest: what is valid, and which errors everything else raises."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_runtime.bundle import Manifest, parse_manifest
from jepa_runtime.errors import BundleError
from tests.bundles import make_bundle
from tests.errors import code

Fields = dict[str, Any]

_QUIET = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def valid(toy_bundle: Path) -> bytes:
    return (toy_bundle / "manifest.json").read_bytes()


def rejection(data: bytes | Fields) -> str:
    """Return the message with which an invalid manifest is rejected."""
    with pytest.raises(BundleError, check=code("bundle.manifest_invalid")) as caught:
        parse_manifest(data if isinstance(data, bytes) else json.dumps(data).encode())
    return str(caught.value)


def read_or_reject(data: bytes) -> Manifest | None:
    """Return the manifest, or None if the reader rejected it in one short line."""
    try:
        return parse_manifest(data)
    except BundleError as error:
        assert str(error).startswith("manifest.json: ")
        assert len(str(error)) < 4096
        return None


def set_in(fields: Fields, place: str, value: object) -> Fields:
    """Return ``fields`` with the value at ``a.b.0`` replaced."""
    changed: Any = copy.deepcopy(fields)
    inner = changed
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return changed


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None, [1]])
def test_manifest_of_an_unknown_format_version_is_rejected(valid: bytes, version: object) -> None:
    with pytest.raises(BundleError, check=code("bundle.version_unsupported")):
        parse_manifest(json.dumps(json.loads(valid) | {"schema_version": version}).encode())


@pytest.mark.parametrize(
    "path",
    [
        "../golden.npz",
        "encoder/../../x.bin",
        "/etc/model.bin",
        "encoder\\openvino\\model.bin",
        "C:model.bin",
        "encoder//model.bin",
        "./model.bin",
        ".hidden.bin",
        "model.py",
        "model.pkl",
        "model.so",
        "model.tar.gz",
        "model",
        "model.bin\n",
        "a" * 300 + ".bin",
        "",
    ],
)
def test_path_that_is_not_allowed_is_rejected(valid: bytes, path: str) -> None:
    assert "files.0.path" in rejection(set_in(json.loads(valid), "files.0.path", path))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("io.frame.height", 5000, "io.frame.height"),
        ("io.frame.height", 0, "io.frame.height"),
        ("io.frame.channels", 4, "io.frame.channels"),
        ("io.frame.layout", "NCHW", "io.frame.layout"),
        ("io.latent.tokens", 1 << 20, "io.latent.tokens"),
        ("io.latent.dim", -1, "io.latent.dim"),
        ("num_samples", 65537, "num_samples"),
        ("horizon", 2048, "horizon"),
        ("history_size", 0, "history_size"),
        ("release_seq", 0, "release_seq"),
        ("trained", 1, "trained"),
        ("version", "1.2", "version"),
        ("model_id", "Toy", "model_id"),
        ("description", "\u001b[31m", "description"),
        ("io.step_s", 0, "io.step_s"),
        ("io.step_s", 1e-300, "io.step_s"),
        ("io.action.high.0", 1e308, "io.action.high.0"),
        ("io.action.low.0", -1e308, "io.action.low.0"),
        ("io.action.low.0", 9.0, "low must not exceed high"),
        ("io.action.low", [1.0, 1.0], "max_norm must be at least the smallest norm"),
        ("io.action.units", ["m/s"], "units must have one entry per name"),
        ("io.action.names", ["linear.x", "linear.x"], "must be unique"),
        ("error_bounds", [0.1], "one entry per step"),
        ("normal_scores", {"data": "", "block": 0, "highest": [0.5]}, "normal_scores.block"),
        ("normal_scores", {"data": "", "block": 4, "highest": []}, "normal_scores.highest"),
        ("normal_scores", {"data": "", "block": 4, "highest": [-0.5]}, "normal_scores.highest.0"),
        ("graphs.encoder", [], "graphs.encoder"),
        ("graphs.encoder.0.path", "encoder/onnx/model.onnx", "path must be encoder/openvino/"),
        ("graphs.encoder.0.precision", "int4", "graphs.encoder.0.precision"),
        ("graphs.unknown_role", [], "graphs.unknown_role"),
        ("graphs.predictor.0.precision", "int8", "same targets and precisions"),
        ("golden.tolerances.fp32", None, "golden.tolerances.fp32"),
        ("files.0.sha256", "0" * 63, "files.0.sha256"),
        ("files.0.bytes", -1, "files.0.bytes"),
        ("files", [], "files"),
        ("extra", 1, "extra"),
    ],
)
def test_invalid_field_is_named(valid: bytes, place: str, value: object, named: str) -> None:
    assert named in rejection(set_in(json.loads(valid), place, value))


def test_futures_larger_than_memory_are_rejected(valid: bytes) -> None:
    fields = set_in(json.loads(valid), "io.latent", {"tokens": 65536, "dim": 4096, "dtype": "float32"})
    assert "at most 1 GiB" in rejection(fields)


def test_inconsistent_graph_variants_are_rejected(valid: bytes) -> None:
    fields = json.loads(valid)
    (first, *_) = fields["graphs"]["predictor"]
    step = first | {"path": first["path"].replace("predictor/", "step/", 1)}
    reported = rejection(set_in(fields, "graphs.step", [step]))
    assert "step and predictor must have the same precisions for openvino" in reported
    energy = fields["graphs"]["energy"][:1]
    assert "energy graph must have the same targets" in rejection(set_in(fields, "graphs.energy", energy))
    twice = fields["graphs"]["encoder"] * 2
    assert "encoder has two variants of the same" in rejection(set_in(fields, "graphs.encoder", twice))


def test_relative_pose_graph_needs_every_target_and_its_files(tmp_path: Path) -> None:
    fields = make_bundle(tmp_path / "toy", relative_pose=True).manifest.to_json_dict()
    assert len(parse_manifest(json.dumps(fields).encode()).graphs.relative_pose) == 3
    first = fields["graphs"]["relative_pose"][:1]
    reported = rejection(set_in(fields, "graphs.relative_pose", first))
    assert "relative_pose graph must have the same targets" in reported
    path = first[0]["path"]
    fields["files"] = [entry for entry in fields["files"] if entry["path"] != path]
    assert f"{path!r} is used but not listed" in rejection(fields)


def test_relative_pose_role_is_written_only_if_the_bundle_has_it(valid: bytes) -> None:
    """Earlier readers reject unknown roles, as this one does, so other bundles must not name it."""
    fields = json.loads(valid)
    assert "relative_pose" not in fields["graphs"]
    manifest = parse_manifest(json.dumps(set_in(fields, "graphs.relative_pose", [])).encode())
    assert manifest.graphs.relative_pose == ()
    assert manifest.to_json_dict()["graphs"] == fields["graphs"]


def test_file_listed_twice_is_rejected(valid: bytes) -> None:
    fields = json.loads(valid)
    fields["files"].append(fields["files"][0])
    assert "is listed twice" in rejection(fields)


def test_graph_without_listed_weights_is_rejected(valid: bytes) -> None:
    fields = json.loads(valid)
    fields["files"] = [entry for entry in fields["files"] if entry["path"] != "encoder/openvino/model.bin"]
    assert "'encoder/openvino/model.bin' is used but not listed" in rejection(fields)


def with_predictors_for(fields: Fields, target: str, path: str, *files: str) -> Fields:
    """Return ``fields`` with another variant of encoder, predictor and step, for ``target``."""
    changed = copy.deepcopy(fields)
    changed["golden"]["tolerances"]["fp16"] = {"min_cosine": 0.9, "max_abs": 1.0}
    for role in ("encoder", "predictor", "step"):
        variant = {"target": target, "precision": "fp16", "path": f"{role}/{target}/{path}"}
        changed["graphs"][role].append(variant)
        record = changed["files"][0]
        changed["files"] += [record | {"path": f"{role}/{target}/{name}"} for name in files]
    return changed


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("npu", ["model_fp16.xml", "model_fp16.bin", "model_fp16_4000.blob", "model_fp16_4000.blob.json"]),
        ("tensorrt", ["model_fp16.onnx"]),
    ],
)
def test_accelerator_variants_have_their_own_folders(valid: bytes, target: str, files: list[str]) -> None:
    fields = json.loads(valid)
    # The energy must have every target; without an energy this does not apply.
    fields["graphs"]["energy"] = []
    manifest = parse_manifest(json.dumps(with_predictors_for(fields, target, files[0], *files)).encode())
    form = manifest.graphs.encoder[-1]
    assert form.target == target
    assert form.paths == tuple(f"encoder/{target}/{name}" for name in files[:2])
    reported = rejection(with_predictors_for(fields, target, files[0], *files[len(form.paths) :]))
    assert "is used but not listed" in reported
    assert f"path must be encoder/{target}/" in rejection(
        with_predictors_for(fields, target, "model_fp16.json", *files)
    )


def test_dynamic_quantization_is_off_unless_an_openvino_variant_has_it(valid: bytes) -> None:
    fields, name = json.loads(valid), "dynamic_quantization_group_size"
    assert all(name not in variant for variant in fields["graphs"]["predictor"])
    plain = parse_manifest(json.dumps(fields).encode())
    assert plain.graphs.predictor[0].dynamic_quantization_group_size == 0
    # The default is not written: earlier readers reject unknown fields.
    assert plain.to_json_dict()["graphs"]["predictor"] == fields["graphs"]["predictor"]
    one_of = {variant["target"]: variant for variant in fields["graphs"]["predictor"]}
    one_of["openvino"][name] = 32
    manifest = parse_manifest(json.dumps(fields).encode())
    assert manifest.to_json_dict()["graphs"]["predictor"] == fields["graphs"]["predictor"]
    assert "groups of 32" in " ".join(variant.label for variant in manifest.graphs.predictor)
    one_of["onnx"][name] = 32
    assert "is for the target openvino, not onnx" in rejection(fields)


def test_fixed_shape_predictor_without_a_step_is_rejected_except_for_one_step(valid: bytes) -> None:
    fields = json.loads(valid)
    fields["graphs"]["energy"] = []
    changed = with_predictors_for(fields, "npu", "model_fp16.xml", "model_fp16.xml", "model_fp16.bin")
    changed["graphs"]["step"] = []
    assert "fixed shapes, for 8 candidates, so npu needs a step graph" in rejection(changed)
    assert parse_manifest(json.dumps(changed | {"num_samples": 1}).encode()).num_samples == 1


def test_target_of_another_package_is_accepted_for_onnx(valid: bytes) -> None:
    fields = json.loads(valid)
    fields["graphs"]["energy"] = []
    manifest = parse_manifest(json.dumps(with_predictors_for(fields, "tpu", "m.onnx", "m.onnx")).encode())
    assert manifest.graphs.encoder[-1].paths == ("encoder/tpu/m.onnx",)
    assert "path must be encoder/tpu/*.onnx" in rejection(
        with_predictors_for(fields, "tpu", "m.xml", "m.xml", "m.bin")
    )
    assert "path must be encoder/tpu/" in rejection(set_in(fields, "graphs.encoder.0.target", "tpu"))


@pytest.mark.parametrize("target", ["", "../x", "Tpu", "t p", "x" * 33, "tpu\n"])
def test_target_that_is_no_name_is_rejected(valid: bytes, target: str) -> None:
    assert "graphs.encoder" in rejection(set_in(json.loads(valid), "graphs.encoder.0.target", target))


def test_manifest_cannot_list_itself(valid: bytes) -> None:
    fields = json.loads(valid)
    fields["files"].append(fields["files"][0] | {"path": "manifest.json"})
    assert "cannot list itself" in rejection(fields)


@pytest.mark.parametrize(
    ("change", "progress"),
    [
        (lambda data: data.replace(b'"toy"', b'"toy", "model_id": "toy"', 1), "key 'model_id' appears twice"),
        (lambda data: data.replace(b"0.05", b"NaN", 1), "NaN is not a number"),
        (lambda data: data.replace(b"0.05", b"-Infinity", 1), "-Infinity is not a number"),
        (lambda data: data.replace(b"0.05", b"1e999", 1), "exceeds the range of a float"),
        (lambda data: data.replace(b"toy", b"t\xffy", 1), "not UTF-8"),
        (lambda data: b"\xef\xbb\xbf" + data, "not strict JSON"),
        (lambda data: data[:-20], "not strict JSON"),
        (lambda data: data + b" " * (1 << 20), "larger than 1 MiB"),
        (lambda data: b"[" * 500_000, "nested too deeply"),
        (lambda data: b"[" * 101 + b"]" * 101, "nested too deeply"),
        (lambda data: b"[" * 100 + b"]" * 100, "must be a JSON object"),
        (lambda data: b'["' + b"[" * 101 + b'"]', "must be a JSON object"),
        (lambda data: b'["\\"' + b"[" * 101 + b'"]', "must be a JSON object"),
        (lambda data: b'["' + b"\\" * 1_000_001, "not strict JSON"),
        (lambda data: b'{"schema_version": ' + b"9" * 100_000 + b"}", "not strict JSON"),
        (lambda data: b"[]", "must be a JSON object"),
        (lambda data: b"", "not strict JSON"),
        (lambda data: data.replace(b'"Apache-2.0"', b'"\\ud800"', 1), ""),
    ],
)
def test_json_that_is_not_strict_is_rejected(
    valid: bytes, change: Callable[[bytes], bytes], progress: str
) -> None:
    assert progress in rejection(change(valid))


def test_manifest_round_trips(valid: bytes) -> None:
    manifest = parse_manifest(valid)
    assert parse_manifest(manifest.model_dump_json().encode()) == manifest


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def places(value: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested lists and objects."""
    result = [place] if place else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        result += places(inner, (*place, key))
    return result


@_QUIET
@given(data=st.data())
def test_manifest_with_any_changed_value_is_read_or_rejected(valid: bytes, data: st.DataObject) -> None:
    fields = json.loads(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(places(fields)))
        inner: Any = fields
        for part in parents:
            inner = inner[part]
        action = data.draw(st.sampled_from(["replace", "delete", "double"]))
        if action == "delete":
            del inner[last]
        elif action == "replace":
            inner[last] = data.draw(_JSON)
        elif isinstance(inner, list):
            inner.append(inner[last])
        else:
            inner[data.draw(st.text(max_size=8))] = inner[last]
    manifest = read_or_reject(json.dumps(fields).encode())
    if manifest is not None:
        assert (
            manifest.num_samples * manifest.horizon * manifest.io.latent.tokens * manifest.io.latent.dim
            <= 1 << 28
        )
        assert all(".." not in record.path.split("/") for record in manifest.files)


@_QUIET
@given(data=st.data())
def test_manifest_with_changed_bytes_is_read_or_rejected(valid: bytes, data: st.DataObject) -> None:
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 8))
        content[start : start + length] = data.draw(st.binary(max_size=8))
    read_or_reject(bytes(content))


@_QUIET
@given(st.binary(max_size=2000) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_are_rejected(data: bytes) -> None:
    assert read_or_reject(data) is None
