"""The strict reader: a complete bundle opens, and every violation is an error with its own code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from jepa_runtime import Bundle, BundleError
from jepa_runtime.bundle import onnx_external_data, seal
from jepa_runtime.bundle.golden_outputs import read_npz
from jepa_runtime.bundle.onnx_external_data import has_external_data
from tests.bundles import ACTIONS, DIM, HORIZON, NUM_SAMPLES, SIZE, TOKENS, make_bundle
from tests.errors import code

Fields = dict[str, Any]


@pytest.fixture
def folder(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that tests can damage."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "toy"))


def assert_rejected(folder: Path, expected: str, *named: str) -> None:
    """Assert the code of the rejection, and check ``named`` in the message."""
    with pytest.raises(BundleError, check=code(expected)) as caught:
        Bundle.open(folder)
    assert all(name in str(caught.value) for name in named), str(caught.value)


def rewrite(folder: Path, change: Callable[[Fields], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def relist(folder: Path, relative: str) -> None:
    """Update size and hash of a changed file in the manifest."""
    data = (folder / relative).read_bytes()

    def change(fields: Fields) -> None:
        record = next(entry for entry in fields["files"] if entry["path"] == relative)
        record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    rewrite(folder, change)


def test_sealed_bundle_opens_with_its_manifest(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    manifest = bundle.manifest
    assert (manifest.model_id, manifest.version, manifest.release_seq) == ("toy", "1.2.3", 4)
    assert manifest.action_size == 2
    assert manifest.io.latent.tokens == TOKENS
    assert bundle.sha256 == hashlib.sha256((toy_bundle / "manifest.json").read_bytes()).hexdigest()
    assert bundle.report() == {"note": "random weights"}


def test_golden_arrays_have_the_shapes_of_the_manifest(toy_bundle: Path) -> None:
    golden = Bundle.open(toy_bundle).golden()
    n = len(golden.frames)
    assert golden.frames.shape == (n, SIZE, SIZE, 3)
    assert golden.futures.shape == (n, NUM_SAMPLES, HORIZON, TOKENS, DIM)
    assert golden.energy is not None and golden.energy.shape == (n,)


def test_golden_poses_must_match_the_manifest(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", relative_pose=True)
    poses = bundle.golden().relative_pose
    assert poses is not None and poses.shape == (len(bundle.golden().frames), 5)
    arrays = dict(np.load(bundle.path / "golden.npz"))
    for wrong in (poses[:, :3], poses[:1], np.full_like(poses, np.nan), poses * [1, 1, 1, 1, 0]):
        np.savez(bundle.path / "golden.npz", **arrays | {"relative_pose": wrong.astype(np.float32)})
        with pytest.raises(BundleError, check=code("bundle.golden_invalid")):
            seal(bundle.path, bundle.manifest)
    del arrays["relative_pose"]
    np.savez(bundle.path / "golden.npz", **arrays)
    with pytest.raises(BundleError, check=code("bundle.golden_invalid")):
        seal(bundle.path, bundle.manifest)


def test_bundle_folder_may_be_a_link(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(toy_bundle)
    assert Bundle.open(tmp_path / "current").manifest.model_id == "toy"


def test_missing_folder_and_missing_manifest_have_different_codes(folder: Path) -> None:
    assert_rejected(folder / "nowhere", "bundle.not_found")
    (folder / "manifest.json").unlink()
    assert_rejected(folder, "bundle.file_missing", "manifest.json")


def test_missing_listed_file_is_named(folder: Path) -> None:
    (folder / "encoder/openvino/model.bin").unlink()
    assert_rejected(folder, "bundle.file_missing", "encoder/openvino/model.bin")


@pytest.mark.parametrize("extra", ["readme.txt", "encoder/openvino/extra.bin", ".hidden", "empty/"])
def test_unlisted_file_is_rejected(folder: Path, extra: str) -> None:
    path = folder / extra
    path.mkdir() if extra.endswith("/") else path.write_bytes(b"x")
    assert_rejected(folder, "bundle.file_unlisted", extra.rstrip("/"))


def test_changed_byte_is_detected(folder: Path) -> None:
    path = folder / "encoder/openvino/model.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert_rejected(folder, "bundle.hash_mismatch", "model.bin")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_changed_size_is_detected(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / "predictor/onnx/model.onnx"
    path.write_bytes(change(path.read_bytes()))
    assert_rejected(folder, "bundle.size_mismatch", "predictor/onnx/model.onnx")


@pytest.mark.parametrize("relative", ["encoder/openvino/model.bin", "manifest.json", "golden.npz"])
def test_symbolic_link_to_identical_content_is_rejected(folder: Path, relative: str) -> None:
    path = folder / relative
    elsewhere = folder.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert_rejected(folder, "bundle.link")


def test_linked_folder_is_rejected(folder: Path) -> None:
    (folder / "encoder").rename(folder.parent / "encoder")
    (folder / "encoder").symlink_to(folder.parent / "encoder")
    assert_rejected(folder, "bundle.link")


def test_hard_link_is_rejected(folder: Path) -> None:
    os.link(folder / "golden.npz", folder.parent / "second_name")
    assert_rejected(folder, "bundle.link", "golden.npz")


def test_named_pipe_is_rejected_without_blocking(folder: Path) -> None:
    (folder / "golden.npz").unlink()
    os.mkfifo(folder / "golden.npz")
    assert_rejected(folder, "bundle.special_file")
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert_rejected(folder, "bundle.special_file")


def test_file_changed_after_opening_is_not_read(folder: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "encoder/onnx/model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, check=code("bundle.size_mismatch")):
        bundle.read("encoder/onnx/model.onnx")
    with pytest.raises(BundleError, check=code("bundle.file_unlisted")):
        bundle.read("../../etc/passwd")


@pytest.mark.parametrize("swapped", ["encoder", "encoder/onnx/model.onnx"])
def test_file_replaced_by_a_link_after_opening_is_not_followed(folder: Path, swapped: str) -> None:
    bundle = Bundle.open(folder)
    (folder / swapped).rename(folder.parent / "elsewhere")
    (folder / swapped).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(BundleError, check=code("bundle.link")):
        bundle.read("encoder/onnx/model.onnx")


class Bomb:
    """An object that creates a file if it is unpickled."""

    trace: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["\x1b[2K\x1b[1Aok", "\rok", "\x9b1A", "\u202eok", os.fsdecode(b"\xff")])
def test_file_name_with_terminal_control_characters_is_escaped(folder: Path, name: str) -> None:
    (folder / name).write_text("")
    with pytest.raises(BundleError, check=code("bundle.file_unlisted")) as caught:
        Bundle.open(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("wrapped", [True, False])
def test_pickle_in_the_golden_arrays_is_never_loaded(folder: Path, wrapped: bool) -> None:
    bomb = Bomb()
    bomb.trace = folder.parent / "exploded"
    arrays = dict(np.load(folder / "golden.npz"))
    if wrapped:
        np.savez(folder / "golden.npz", **arrays | {"goal": np.array([bomb], object)})
    else:
        (folder / "golden.npz").write_bytes(pickle.dumps(bomb))
    relist(folder, "golden.npz")
    assert_rejected(folder, "bundle.array_invalid", "golden.npz")
    assert not bomb.trace.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"goal": np.zeros((2, TOKENS, DIM), np.float32)}, "bundle.golden_invalid"),
        ({"goal": np.zeros((1, TOKENS, DIM), np.float64)}, "bundle.golden_invalid"),
        ({"goal": np.full((1, TOKENS, DIM), np.nan, np.float32)}, "bundle.golden_invalid"),
        ({"frames": np.zeros((0, SIZE, SIZE, 3), np.uint8)}, "bundle.golden_invalid"),
        ({"frames": np.zeros((), np.uint8)}, "bundle.golden_invalid"),
        ({"frames": None}, "bundle.golden_invalid"),
        ({"actions": np.zeros((0, HORIZON, ACTIONS), np.float32)}, "bundle.golden_invalid"),
        ({"more": np.zeros(1)}, "bundle.golden_invalid"),
        ({f"more{at}": np.zeros(1) for at in range(64)}, "bundle.too_large"),
    ],
)
def test_golden_arrays_that_do_not_match_the_manifest_are_rejected(
    folder: Path, change: dict[str, Any], expected: str
) -> None:
    arrays = dict(np.load(folder / "golden.npz")) | change
    np.savez(folder / "golden.npz", **{name: array for name, array in arrays.items() if array is not None})
    relist(folder, "golden.npz")
    assert_rejected(folder, expected)


def test_array_with_an_implausible_shape_allocates_no_memory(folder: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    with zipfile.ZipFile(folder / "golden.npz", "w") as archive:
        archive.writestr("frames.npy", header.getvalue())
    relist(folder, "golden.npz")
    assert_rejected(folder, "bundle.too_large", "frames")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_array_decompressed_in_one_step_allocates_no_memory(folder: Path, method: int) -> None:
    with zipfile.ZipFile(folder / "golden.npz", "w", method) as archive:
        archive.writestr("frames.npy", bytes(1 << 27))
    relist(folder, "golden.npz")
    tracemalloc.start()
    assert_rejected(folder, "bundle.array_invalid", "frames")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["goal.npy", "goal.txt"])
def test_malformed_or_duplicate_array_is_rejected(folder: Path, name: str) -> None:
    with zipfile.ZipFile(folder / "golden.npz", "a") as archive:
        archive.writestr(name, archive.read("goal.npy"))
    relist(folder, "golden.npz")
    assert_rejected(folder, "bundle.array_invalid", name)


def external(location: str) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [tensor],
    )
    return helper.make_model(graph)


def in_attribute(inner: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the tensor as the value of a Constant in a branch of an If."""
    constant = helper.make_node("Constant", [], ["c"], value=inner.graph.initializer[0])
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])
    branch = helper.make_graph([constant], "b", [], [out])
    node = helper.make_node("If", ["q"], ["y"], then_branch=branch, else_branch=branch)
    question = helper.make_tensor_value_info("q", TensorProto.BOOL, [1])
    return helper.make_model(helper.make_graph([node], "g", [question], [out]))


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "weights.bin"])
@pytest.mark.parametrize("hide", [lambda model: model, in_attribute], ids=["initializer", "in a branch"])
def test_onnx_model_with_external_data_is_rejected(
    folder: Path, location: str, hide: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    relative = "encoder/onnx/model.onnx"
    (folder / relative).write_bytes(hide(external(location)).SerializeToString())
    relist(folder, relative)
    assert_rejected(folder, "bundle.external_data", relative)


def test_external_data_under_keys_that_engines_truncate_is_rejected(folder: Path) -> None:
    graph = external("weights.bin").graph
    (tensor,) = graph.initializer
    (entry,) = tensor.external_data
    content = entry.SerializeToString()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    # Fields 13 and 14, with a 33rd bit.
    hidden = bytes([0xEA, 0x80, 0x80, 0x80, 0x10, len(content)]) + content
    hidden = tensor.SerializeToString() + hidden + bytes([0xF0, 0x80, 0x80, 0x80, 0x10, TensorProto.EXTERNAL])
    del graph.initializer[:]
    inner = graph.SerializeToString() + bytes([0x2A, len(hidden)]) + hidden
    (folder / "encoder/onnx/model.onnx").write_bytes(bytes([0x3A, len(inner)]) + inner)
    relist(folder, "encoder/onnx/model.onnx")
    assert_rejected(folder, "bundle.file_invalid", "encoder/onnx/model.onnx", "invalid field key")


def test_ir_file_containing_onnx_with_external_data_is_rejected(folder: Path) -> None:
    relative = "encoder/openvino/model.xml"
    (folder / relative).write_bytes(external("weights.bin").SerializeToString())
    relist(folder, relative)
    assert_rejected(folder, "bundle.file_invalid", relative)


def test_every_field_that_leads_to_a_tensor_is_checked() -> None:
    for kind, fields in onnx_external_data._FIELDS.items():
        message = onnx.TrainingInfoProto if kind == "Training" else getattr(onnx, f"{kind}Proto")
        leads = {
            field.number: field.message_type.name.removesuffix("Proto").removesuffix("Info")
            for field in message.DESCRIPTOR.fields
            if field.message_type is not None
        }
        assert {at: name for at, name in leads.items() if name in onnx_external_data._FIELDS} == fields


def test_tensor_with_inline_data_is_accepted() -> None:
    model = external("weights.bin")
    (tensor,) = model.graph.initializer
    tensor.ClearField("external_data")
    assert has_external_data(model.SerializeToString())
    tensor.data_location = onnx.TensorProto.DEFAULT
    assert not has_external_data(model.SerializeToString())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        b"\x3a\x80",
        b"no model at all",
        onnx.ModelProto(producer_name="x").SerializeToString(),
    ],
)
def test_malformed_onnx_file_is_rejected(folder: Path, content: bytes) -> None:
    (folder / "encoder/onnx/model.onnx").write_bytes(content)
    relist(folder, "encoder/onnx/model.onnx")
    assert_rejected(folder, "bundle.file_invalid", "encoder/onnx/model.onnx")


def test_truncated_onnx_model_is_rejected(folder: Path) -> None:
    path = folder / "encoder/onnx/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    relist(folder, "encoder/onnx/model.onnx")
    assert_rejected(folder, "bundle.file_invalid", "truncated at byte")


def test_endlessly_nested_onnx_graphs_are_rejected(folder: Path) -> None:
    model = b""
    for _ in range(400):
        # An attribute of a node of a graph, each length in two bytes.
        for key in (6 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2):
            model = bytes([key, len(model) & 127 | 128, len(model) >> 7]) + model
    model = bytes([7 << 3 | 2, len(model) & 127 | 128, len(model) >> 7]) + model
    (folder / "encoder/onnx/model.onnx").write_bytes(model)
    relist(folder, "encoder/onnx/model.onnx")
    assert_rejected(folder, "bundle.file_invalid", "nested too deeply")


@given(data=st.data())
def test_damaged_arrays_and_models_are_read_or_rejected(toy_bundle: Path, data: st.DataObject) -> None:
    for relative, read, allowed in (
        ("golden.npz", lambda content: read_npz(content, "golden.npz"), BundleError),
        ("encoder/onnx/model.onnx", has_external_data, ValueError),
    ):
        content = bytearray((toy_bundle / relative).read_bytes()[:20_000])
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        with suppress(allowed):
            read(bytes(content))


def test_report_that_is_not_strict_json_is_rejected(folder: Path) -> None:
    (folder / "report.json").write_text('{"success": NaN}')
    relist(folder, "report.json")
    assert_rejected(folder, "bundle.file_invalid", "report.json", "NaN")


def test_optional_fields_unknown_to_earlier_readers_are_omitted_at_their_defaults(toy_bundle: Path) -> None:
    assert "normal_scores" not in (toy_bundle / "manifest.json").read_text()
    assert Bundle.open(toy_bundle).manifest.normal_scores is None


def test_bundles_with_a_longer_history_and_without_energy_are_valid(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", history_size=2, energy=False)
    assert bundle.manifest.graphs.energy == ()
    assert bundle.golden().energy is None


def test_repr_of_a_bundle_is_one_readable_line(toy_bundle: Path) -> None:
    assert repr(Bundle.open(toy_bundle)).startswith("Bundle(toy 1.2.3, openvino/")


def test_repr_html_is_a_table(toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    result = ElementTree.fromstring(bundle._repr_html_())
    assert result.findtext("caption/b") == "Bundle toy 1.2.3"
    assert bundle.sha256 in result.itertext()
    manifest = bundle.manifest.model_copy(update={"description": "<script>&", "trained": False})
    result = ElementTree.fromstring(replace(bundle, manifest=manifest)._repr_html_())
    assert result.findtext("caption/b") == "Bundle toy 1.2.3, random weights"
    assert "<script>&" in result.itertext()
