"""The contents of a checkpoint on disk or on the Hugging Face Hub. No code in it is executed."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jepa_export.errors import JepaExportError

# A name on the Hub: owner/name.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")
_INDEX = "model.safetensors.index.json"

Content = dict[str, Any]


def locate(source: str | Path) -> tuple[Path, str]:
    """Return the path of ``source`` on disk, and its name for messages.

    Args:
        source: A file (.pt, .pth, .tar, .ckpt, .safetensors), a folder in the Hub's layout, or a name there
            (owner/name), which is downloaded unless a folder has this name.

    Raises:
        JepaExportError: There is no such checkpoint, or the download failed.
    """
    path = Path(source).expanduser()
    if not path.exists() and _HUB_NAME.fullmatch(str(source)) and path.suffix not in _SUFFIXES:
        return _fetch(str(source)), str(source)
    if not path.is_dir() and not path.is_file():
        raise JepaExportError(
            f"{path}: does not exist; pass the file of a checkpoint, its folder, or owner/name",
            code="teacher.checkpoint_not_found",
        )
    return path, str(path)


def load(path: Path) -> Content:
    """Return the contents of a file or folder by name.

    Raises:
        JepaExportError: The checkpoint is damaged, or contains more than data.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise JepaExportError(
            f"{name}: not a local folder, and huggingface_hub, which downloads it, is not installed; run pip "
            "install huggingface_hub, or pass the path of a copy",
            code="teacher.missing_package",
        ) from error
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "weights*.pt"], etag_timeout=5)
        )
    # Without a connection, the client raises its own errors or those of the transport.
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise JepaExportError(
            f"{name}: download from the Hugging Face Hub failed ({type(error).__name__}); check the name "
            "and the "
            "connection, or pass the path of a copy",
            code="teacher.download_failed",
        ) from error


def _folder(folder: Path) -> Content:
    """Read the only checkpoint of a folder, which may consist of several files."""
    if (index := folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise JepaExportError(
                f"{index}: damaged: {error}; download the folder again", code="teacher.checkpoint_damaged"
            ) from error
        if outside := [name for name in names if Path(str(name)).name != name]:
            raise JepaExportError(
                f"{index}: refers to a file outside the folder: {outside[0]}; download the folder again",
                code="teacher.checkpoint_damaged",
            )
        parts = [folder / name for name in names]
        if missing := [part.name for part in parts if not part.is_file()]:
            raise JepaExportError(
                f"{folder}: {', '.join(missing)} missing; download the folder again",
                code="teacher.checkpoint_damaged",
            )
        return {name: tensor for part in parts for name, tensor in _file(part).items()}
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".pt"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise JepaExportError(
            f"{folder}: must contain exactly one file of weights (.safetensors, .pt), found {found}; pass "
            "the "
            "file itself",
            code="teacher.checkpoint_ambiguous",
        )
    return _file(files[0])


def _file(path: Path) -> Content:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Memory-mapped, the optimizer state in an official file takes no memory; old formats cannot be
        # mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # Damaged bytes make the unpickler raise any exception.
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise JepaExportError(
                f"{path}: contains Python objects besides tensors, which would execute code, so it was not "
                "loaded; "
                "ask its author for the weights alone (a state_dict)",
                code="teacher.checkpoint_unsafe",
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise JepaExportError(
            f"{path}: damaged, truncated or not a checkpoint: {reason}; download it again",
            code="teacher.checkpoint_damaged",
        ) from error
    if not isinstance(content, dict):
        raise JepaExportError(
            f"{path}: contains a {type(content).__name__} instead of weights by name; check that it is the "
            "right "
            "file",
            code="teacher.checkpoint_unknown",
        )
    return content
