"""Upload of a bundle to the Hugging Face Hub, with a model card that states what the manifest states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jepa_runtime
from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import MANIFEST_NAME, Bundle, HubRepository, hub_client

_CARD = "README.md"
# Written by the Hub itself.
_RETAINED = (".gitattributes", _CARD)
# The identifiers of the Hub for licenses are those of SPDX in lower case, for licenses that it knows.
_LICENSES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "gpl-3.0",
        "lgpl-3.0",
        "mpl-2.0",
    }
)


def push_bundle(path: Path, address: str, *, private: bool = False) -> str:
    """Upload a bundle in one commit, and return the address of this commit.

    Files in the repository that the bundle does not have are deleted. The repository is created if it does
    not exist.

    Args:
        path: Folder of the bundle, which is verified first.
        address: ``hf://org/name``, optionally with ``@branch``; the branch must exist.
        private: Whether a new repository is private.

    Raises:
        BundleError: The bundle is not valid, the address has another form, or huggingface_hub is missing.
        JepaExportError: The upload fails.
    """
    repository = HubRepository.parse(address)
    bundle = Bundle.open(path)
    client = hub_client()
    contents = {name: bundle.read(name) for name in (record.path for record in bundle.manifest.files)}
    contents[MANIFEST_NAME] = (bundle.path / MANIFEST_NAME).read_bytes()
    contents[_CARD] = model_card(bundle, repository.name).encode()
    try:
        commit = _upload(client, repository, contents, private=private)
    # The errors of the connection are those of the HTTP library of the client.
    except Exception as error:
        raise JepaExportError(
            f"{address}: upload failed ({type(error).__name__}: {error}): check the connection, and log in "
            "with `hf auth login` and a token that can write",
            code="hub.upload_failed",
        ) from error
    return str(HubRepository(repository.name, commit))


def model_card(bundle: Bundle, repository: str) -> str:
    """Return the model card: metadata for the Hub, what the manifest states, how to open the bundle."""
    manifest = bundle.manifest
    frame, latent, action = manifest.io.frame, manifest.io.latent, manifest.io.action
    components = (
        f"`{name}` [{unit}] {low:g} to {high:g}"
        for name, unit, low, high in zip(action.names, action.units, action.low, action.high, strict=True)
    )
    bounds = "not measured: random weights"
    if manifest.trained:
        bounds = ", ".join(f"{bound:.3g}" for bound in manifest.error_bounds)
    rows = {
        "version": manifest.version,
        "input": f"RGB image {frame.width} x {frame.height}",
        "latent": f"{latent.tokens} tokens of {latent.dim}",
        "actions": ", ".join(components),
        "futures": f"{manifest.num_samples} of {manifest.horizon} steps of {manifest.io.step_s:g} s",
        "variants": ", ".join(f"{each.target}/{each.precision}" for each in manifest.graphs.encoder),
        "error bounds": bounds,
        "training data": manifest.provenance.data,
        "teacher": manifest.provenance.teacher or "none",
        "license": manifest.licence,
        "commit of the code": manifest.provenance.commit,
        "SHA-256 of the manifest": f"`{bundle.sha256}`",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"""---
{_metadata(manifest.licence)}
---
# {manifest.model_id}

{manifest.description}

|  |  |
|---|---|
{table}

A bundle for jepa-edge {jepa_runtime.__version__}. `{MANIFEST_NAME}` lists all other files with their hashes.

```python
from jepa_runtime import WorldModel

model = WorldModel.open("hf://{repository}")
```

To open exactly this bundle, append `@` and the commit.
"""


def _metadata(license: str) -> str:
    known = license.lower() in _LICENSES
    lines = (
        [f"license: {license.lower()}"] if known else ["license: other", f"license_name: {_quoted(license)}"]
    )
    tags = ["jepa", "world-model", "robotics"]
    return "\n".join(
        [*lines, "library_name: jepa-edge", "pipeline_tag: robotics", f"tags: [{', '.join(tags)}]"]
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _upload(client: Any, repository: HubRepository, contents: dict[str, bytes], *, private: bool) -> str:
    hub = client.HfApi()
    hub.create_repo(repository.name, private=private, exist_ok=True)
    present = hub.list_repo_files(repository.name, revision=repository.revision)
    operations = [
        client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in contents.items()
    ]
    operations += [
        client.CommitOperationDelete(path_in_repo=name)
        for name in present
        if name not in contents and name not in _RETAINED
    ]
    made = hub.create_commit(
        repository.name, operations, commit_message="Upload the bundle", revision=repository.revision
    )
    return str(made.oid)
