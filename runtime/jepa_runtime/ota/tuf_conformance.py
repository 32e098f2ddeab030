"""The client for the conformance suite of The Update Framework; it runs the code that downloads models.

The suite is https://github.com/theupdateframework/tuf-conformance:

    pytest tuf_conformance --entrypoint "python -m jepa_runtime.ota.tuf_conformance"

``init`` stores the provisioned root; ``refresh`` and ``download`` start from it each time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Limits
from jepa_runtime.ota.trust.metadata import Floors
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from jepa_runtime.util.argument_parser import ArgumentParser

_ROOT = "provisioned_root"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 for success, or 1 after printing the error."""
    arguments = _parser().parse_args(argv)
    meta: Path = arguments.metadata_dir
    try:
        if arguments.command == "init":
            shutil.copyfile(arguments.root, meta / _ROOT)
            return 0
        limits = Limits()
        trust = RepositoryTrust(
            meta,
            root=(meta / _ROOT).read_bytes(),
            metadata=HttpSource(arguments.metadata_url, limits),
            targets=HttpSource(arguments.target_base_url or arguments.metadata_url, limits),
            limits=limits,
            now=lambda: datetime.now(timezone.utc),
        )
        trust.refresh(Floors({}, None))
        if arguments.command == "download":
            for name in arguments.target_name:
                _download(trust, name, arguments.target_dir)
    except (UpdateError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _download(trust: RepositoryTrust, name: str, folder: Path) -> None:
    target = folder / quote(name, "")
    part = target.with_name(target.name + ".part")
    if target.exists():
        shutil.copy2(target, part)
    trust.download(name, part)
    part.replace(target)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="jepa_runtime.ota.tuf_conformance", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


if __name__ == "__main__":
    sys.exit(main())
