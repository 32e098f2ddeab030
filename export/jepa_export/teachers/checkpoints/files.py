"""What a checkpoint on disk or on the Hugging Face Hub holds. Nothing in it is ever run."""

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

# Of a name on the Hub: owner/name.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar", ".bin")
_INDEX = "model.safetensors.index.json"

Content = dict[str, Any]


def load(source: str | Path) -> tuple[Content, str]:
    """What ``source`` holds, by name, and how to call it in messages.

    Args:
        source: a file (.pt, .pth, .tar, .ckpt, .safetensors), a folder in the form of the Hub, or a name
            there (owner/name), which is fetched unless a folder is called so.

    Raises:
        JepaExportError: it is missing, damaged, or holds more than data.
    """
    path = Path(source).expanduser()
    if not path.exists() and _HUB_NAME.fullmatch(str(source)) and path.suffix not in _SUFFIXES:
        return _folder(_fetch(str(source))), str(source)
    if path.is_dir():
        return _folder(path), str(path)
    if not path.is_file():
        raise JepaExportError(f"{path} does not exist: give a checkpoint's file, its folder, or owner/name")
    return _file(path), str(path)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise JepaExportError(
            f"{name} is no folder here, and huggingface_hub, which could fetch it, is not installed: "
            "pip install huggingface_hub, or give the path of a copy"
        ) from error
    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "weights*.pt"], etag_timeout=5)
        )
    # Offline, the client fails with its own errors or with those of the connection.
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise JepaExportError(
            f"{name} could not be fetched from the Hugging Face Hub ({type(error).__name__}): check the name "
            "and the connection, or give the path of a copy"
        ) from error


def _folder(folder: Path) -> Content:
    """The one checkpoint of a folder, of one or of several files."""
    if (index := folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise JepaExportError(f"{index} is damaged ({error}): fetch the folder again") from error
        if strange := [name for name in names if Path(str(name)).name != name]:
            raise JepaExportError(f"{index} names files outside the folder: {strange[0]}: fetch it again")
        parts = [folder / name for name in names]
        if missing := [part.name for part in parts if not part.is_file()]:
            raise JepaExportError(f"{folder} lacks {', '.join(missing)}: fetch the folder again")
        return {name: tensor for part in parts for name, tensor in _file(part).items()}
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".pt"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise JepaExportError(
            f"{folder} must hold one file of weights (.safetensors, .pt), found {found}: give the file itself"
        )
    return _file(files[0])


def _file(path: Path) -> Content:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Memory-mapped, the optimiser's state in an official file costs nothing; old files cannot be.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # Strange bytes make the unpickler fail in any way.
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise JepaExportError(
                f"{path} holds Python objects besides tensors, which would be code to run: it was not "
                "loaded; ask its author for the weights alone (a state_dict)"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise JepaExportError(
            f"{path} is damaged, cut short or no checkpoint ({reason}): fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise JepaExportError(
            f"{path} holds a {type(content).__name__}, not weights by name: is it the file?"
        )
    return content
