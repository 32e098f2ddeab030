"""jepa-export push: a bundle on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands import add_bundle_argument


def add_parser(subparsers: Any) -> None:
    """Add ``push`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "push",
        description="Verify a bundle and upload it to the Hugging Face Hub in one commit, with a model card "
        "that states what the manifest states. Log in with `hf auth login` first.",
    )
    add_bundle_argument(parser)
    parser.add_argument(
        "address", metavar="hf://ORG/NAME[@BRANCH]", help="repository, created if it does not exist"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=_run, needs=(), stopped="interrupted: the Hub has the previous commit")


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.release.hub_upload import push_bundle

    print(push_bundle(arguments.bundle, arguments.address, private=arguments.private))
    return 0
