"""jepa-export release: manage a repository of signed releases."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands import ExitStatus, add_bundle_argument, count, positive

if TYPE_CHECKING:
    from jepa_export.release.keys import ExternalKey, KeyRing
    from jepa_export.release.repository import Repository
    from jepa_export.release.roles import Policy
    from jepa_runtime.ota import Release

_QUORUMS = ("root", "targets", "channel")


def add_parser(subparsers: Any) -> None:
    """Add ``release`` and its actions to the commands of jepa-export."""
    release = subparsers.add_parser(
        "release",
        description="Manage a repository of signed releases (The Update Framework). Serve REPO/metadata and "
        "REPO/targets with any web server; store the keys outside of REPO.",
    )
    commands = release.add_subparsers(required=True, metavar="ACTION")
    _add_publishing(commands)
    _add_signing(commands)
    prune = _signing_command(commands, "prune", _prune, "remove old versions and replaced metadata")
    prune.add_argument(
        "--keep",
        type=count,
        default=20,
        metavar="N",
        help="number of versions of each model in each channel to keep (default: %(default)s)",
    )
    prune.add_argument(
        "--after",
        type=number_types.days,
        default=1.0,
        metavar="DAYS",
        help="keep files that are younger, because a robot may be reading them (default: %(default)g)",
    )
    for name, run, summary in (
        ("check", _check, "verify all signatures, the hash of every file, and that each release is complete"),
        ("show", _show, "show roles, keys and releases"),
    ):
        parser = _command(commands, name, run, summary)
        if name == "check":
            parser.epilog = "Exit status: 0 no problems, 1 error, 3 problems found."


def _command(commands: Any, name: str, run: Callable[..., int], summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    parser.add_argument("repo", type=Path, metavar="REPO", help="folder of the repository")
    parser.set_defaults(run=run, needs=(), stopped="interrupted: robots see a complete state, old or new")
    return parser


def _signing_command(
    commands: Any, name: str, run: Callable[..., int], summary: str, *, creates: bool = False
) -> argparse.ArgumentParser:
    parser = _command(commands, name, run, summary)
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of keys; repeatable; a new key is stored with other keys of its role, else in the first "
        "folder (default: REPO.keys and REPO.offline-keys, next to REPO)",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file with the passphrase of encrypted keys in its first line (default: the environment "
        "variable JEPA_EDGE_KEY_PASSPHRASE, else a prompt)",
    )
    if creates:
        parser.add_argument("--encrypt", action="store_true", help="encrypt new keys with the passphrase")
    return parser


def _add_publishing(commands: Any) -> None:
    publish = _signing_command(commands, "publish", _publish, "release a bundle in a channel")
    add_bundle_argument(publish)
    publish.add_argument("--channel", required=True, help="name of the channel")
    publish.add_argument(
        "--release-seq",
        type=_sequence,
        metavar="auto|N",
        help="sequence number, above that of the last release (default: the next number)",
    )
    publish.add_argument(
        "--percent",
        type=number_types.percent,
        default=100.0,
        help="percentage of the robots that get the release (default: %(default)g)",
    )
    publish.add_argument("--salt", help="salt that selects these robots (default: the model's name)")
    publish.add_argument(
        "--hardware",
        action="append",
        metavar="ID",
        help="hardware ID of the robots; repeatable (default: any)",
    )
    publish.add_argument(
        "--max-latency-p99-ms",
        type=positive,
        metavar="MS",
        help="budget of the p99 frame latency; a robot that exceeds it rejects the release",
    )
    publish.add_argument(
        "--max-peak-memory-mb",
        type=positive,
        metavar="MB",
        help="budget of the peak memory; a robot that exceeds it rejects the release",
    )
    publish.add_argument(
        "--max-error-ratio",
        type=positive,
        metavar="R",
        help="largest prediction error, divided by that of the active model; a robot that measures more "
        "rejects the release",
    )
    publish.add_argument(
        "--deltas",
        type=number_types.count,
        default=3,
        metavar="N",
        help="offer deltas from the last N releases (default: %(default)s)",
    )
    publish.add_argument(
        "--allow-untrained", action="store_true", help="release random weights, for measuring speed"
    )
    publish.add_argument(
        "--accept-non-commercial",
        action="store_true",
        help="release a model whose license forbids commercial use",
    )
    publish.add_argument(
        "--engine",
        default=DEFAULT_ENGINE,
        metavar="E",
        help="engine that verifies the bundle (default: %(default)s)",
    )
    rollout = _signing_command(commands, "rollout", _rollout, "offer the latest release to more robots")
    rollout.add_argument(
        "--percent",
        type=number_types.percent,
        required=True,
        help="percentage of the robots that get the release",
    )
    rollout.add_argument("--shrink", action="store_true", help="allow a smaller percentage than before")
    revoke = _signing_command(commands, "revoke", _revoke, "withdraw a release from all robots")
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--release-seq", type=int, metavar="N", help="sequence number of a release in this channel"
    )
    which.add_argument(
        "--manifest",
        type=_sha256,
        metavar="SHA256",
        help="SHA-256 of the manifest.json of any bundle, such as one signed with a stolen key",
    )
    downgrade = _signing_command(commands, "downgrade", _downgrade, "release an old version again")
    downgrade.add_argument(
        "--bundle-version", required=True, metavar="X.Y.Z", help="version to release again"
    )
    downgrade.add_argument(
        "--percent",
        type=number_types.percent,
        default=100.0,
        help="percentage of the robots that get the release (default: %(default)g)",
    )
    for parser in (rollout, revoke, downgrade):
        parser.add_argument("--channel", required=True, help="name of the channel")
        parser.add_argument("--model", required=True, help="name of the model (model_id of its manifest)")


def _add_signing(commands: Any) -> None:
    init = _signing_command(commands, "init", _init, "create a repository and its keys", creates=True)
    init.add_argument(
        "--channel",
        action="append",
        metavar="NAME",
        help="name of a channel; repeatable (default: stable and canary)",
    )
    init.add_argument(
        "--offline-keys",
        type=Path,
        metavar="DIR",
        help="folder for the keys of root and targets (default: REPO.offline-keys; with --policy dev the "
        "folder of the other keys)",
    )
    init.add_argument(
        "--lifetime",
        action="append",
        nargs=2,
        default=[],
        metavar=("ROLE", "DAYS"),
        help="lifetime of a role's signatures; repeatable (see `jepa-export release lifetime`)",
    )
    add_channel = _signing_command(commands, "add-channel", _add_channel, "add a channel", creates=True)
    add_channel.add_argument("name", metavar="NAME", help="name of the channel")
    for parser, roles in ((init, _QUORUMS), (add_channel, ("channel",))):
        parser.add_argument(
            "--policy",
            choices=("standard", "fleet", "dev"),
            default="standard",
            help="number of keys; standard: root 2 of 3, other roles 1, with root and targets in a separate "
            "folder; fleet: root 3 of 5, targets and channels 2 of 3, canary 1; dev: one key for each role, "
            "all in one folder, for demos and tests (default: %(default)s)",
        )
        for role in roles:
            parser.add_argument(
                f"--{role}-threshold", type=int, metavar="N", help=f"signatures that {role} needs"
            )
            parser.add_argument(f"--{role}-keys", type=int, metavar="M", help=f"keys of {role}")
        parser.add_argument(
            "--signer",
            action="append",
            nargs=3,
            default=[],
            metavar=("ROLE", "URI", "PUBLIC.pem"),
            help="use a key in a key service or hardware module (securesystemslib) instead of a new one; "
            "repeatable",
        )
    resign = _signing_command(commands, "resign", _resign, "sign roles that expire soon; run it daily")
    resign.add_argument(
        "--within",
        type=number_types.days,
        metavar="DAYS",
        help="sign roles that expire within DAYS (default: a quarter of the lifetime of each role)",
    )
    lifetime = _signing_command(commands, "lifetime", _lifetime, "set the lifetime of a role's signatures")
    lifetime.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp or channel-NAME")
    lifetime.add_argument("days", type=int, metavar="DAYS", help="lifetime in days")
    rotate = _signing_command(
        commands, "rotate", _rotate, "replace a key of a role by a new one", creates=True
    )
    rotate.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp or channel-NAME")
    rotate.add_argument("--key", metavar="ID", help="key to retire, if the role has several")
    rotate.add_argument(
        "--signer", nargs=2, metavar=("URI", "PUBLIC.pem"), help="new key, as for `jepa-export release init`"
    )


def _init(arguments: argparse.Namespace) -> int:
    from jepa_export.release.repository import METADATA
    from jepa_export.release.roles import init

    keys = _keys(arguments)
    repository = init(
        arguments.repo,
        keys,
        channels=arguments.channel or ["stable", "canary"],
        policy=_policy(arguments),
        externals=_externals(arguments),
        lifetimes={role: _days(text) for role, text in arguments.lifetime},
    )
    root = arguments.repo / METADATA / "1.root.json"
    _print(f"channels {', '.join(repository.channels)}; robots start from {root}")
    if keys.offline is None:
        _print(
            f"all keys are in {keys.folders[0]}: make a backup, and move those of root and targets off this "
            "machine"
        )
    else:
        _print(f"keys that sign releases are in {keys.folders[0]}: make a backup")
        _print(
            f"keys of root and targets are in {keys.offline}: move each to a separate disk off this machine, "
            "with a backup; they are needed for new channels, key rotation, and before they expire"
        )
    if not arguments.encrypt:
        _print("keys are not encrypted: --encrypt encrypts new keys")
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import Terms, check_bundle, publish
    from jepa_runtime.bundle import Bundle

    bundle = Bundle.open(arguments.bundle)
    checked = check_bundle(
        bundle,
        engine=arguments.engine,
        allow_untrained=arguments.allow_untrained,
        accept_non_commercial=arguments.accept_non_commercial,
    )
    _print(f"{arguments.bundle}: reproduces its golden outputs in {', '.join(checked)}")
    given = {
        "latency_p99_ms": arguments.max_latency_p99_ms,
        "peak_memory_mb": arguments.max_peak_memory_mb,
        "max_error_ratio": arguments.max_error_ratio,
    }
    budgets = {name: value for name, value in given.items() if value is not None}
    terms = Terms(
        channel=arguments.channel,
        release_seq=arguments.release_seq,
        percent=arguments.percent,
        salt=arguments.salt,
        hardware_ids=tuple(arguments.hardware or ["any"]),
        budgets=budgets,
        deltas=arguments.deltas,
    )
    with _opened(arguments) as repository:
        release = publish(repository, bundle, terms)
    _print_release(arguments.channel, release)
    if release.deltas:
        size = sum(delta.bytes for delta in release.deltas) / 1e3
        _print(f"deltas from earlier releases: {len(release.deltas)}, {size:.1f} kB")
    _check_not_expired(repository)
    return 0


def _rollout(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import rollout

    with _opened(arguments) as repository:
        release = rollout(
            repository, arguments.channel, arguments.model, arguments.percent, shrink=arguments.shrink
        )
    _print_release(arguments.channel, release)
    _check_not_expired(repository)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import revoke, revoke_manifest

    with _opened(arguments) as repository:
        if arguments.manifest is not None:
            release = revoke_manifest(repository, arguments.channel, arguments.model, arguments.manifest)
        else:
            release = revoke(repository, arguments.channel, arguments.model, arguments.release_seq)
    revoked = ", ".join((*map(str, release.revoked), *release.revoked_manifests))
    _print(f"revoked releases of {release.model_id} in {arguments.channel}: {revoked}")
    _check_not_expired(repository)
    return 0


def _downgrade(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import downgrade

    with _opened(arguments) as repository:
        release = downgrade(
            repository,
            arguments.channel,
            arguments.model,
            arguments.bundle_version,
            percent=arguments.percent,
        )
    _print_release(arguments.channel, release)
    _check_not_expired(repository)
    return 0


def _resign(arguments: argparse.Namespace) -> int:
    from jepa_export.errors import JepaExportError
    from jepa_export.release.roles import resign

    within = None if arguments.within is None else timedelta(days=arguments.within)
    with _opened(arguments) as repository:
        signed, missing = resign(repository, within)
        for role in signed:
            found = repository.signed[role]
            _print(f"{role} {found.version} is valid until {found.expires:%Y-%m-%d}")
    if missing:
        raise JepaExportError(
            f"{', '.join(missing)} expire soon, but too few of their keys are available: pass the folders "
            "that have them (--keys)",
            code="release.too_few_keys",
        )
    if not signed:
        _print("nothing expires soon")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from jepa_export.release.keys import ExternalKey, short_id
    from jepa_export.release.roles import rotate

    external = ExternalKey(arguments.signer[0], Path(arguments.signer[1])) if arguments.signer else None
    with _opened(arguments) as repository:
        old, new = rotate(repository, arguments.role, retire=arguments.key, external=external)
    _print(f"{arguments.role}: key {short_id(new)} replaces {short_id(old)}: destroy the old key")
    return 0


def _lifetime(arguments: argparse.Namespace) -> int:
    from jepa_export.release.roles import change_lifetime

    with _opened(arguments) as repository:
        change_lifetime(repository, arguments.role, arguments.days)
        _print(f"{arguments.role} is valid until {repository.signed[arguments.role].expires:%Y-%m-%d}")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from jepa_export.release.prune import prune

    with _opened(arguments) as repository:
        pruned = prune(repository, keep=arguments.keep, after=timedelta(days=arguments.after))
    for version in pruned.versions:
        _print(f"pruned {version}: it cannot be released again")
    _print(f"removed {pruned.files} files, {pruned.size / 1e6:.1f} MB")
    return 0


def _add_channel(arguments: argparse.Namespace) -> int:
    from jepa_export.release.repository import channel_role
    from jepa_export.release.roles import add_channel

    externals = _externals(arguments).get(channel_role(arguments.name), [])
    with _opened(arguments) as repository:
        add_channel(repository, arguments.name, _policy(arguments), externals)
        _print(f"channels {', '.join(repository.channels)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from jepa_export.release.repository import utc_now
    from jepa_export.release.repository_check import check

    found = check(arguments.repo, utc_now())
    for problem in found.problems:
        _print(problem, style="red")
    verdict = f"{len(found.problems)} problems" if found.problems else "no problems"
    _print(f"{found.files} files, {found.size / 1e6:.1f} MB, {found.releases} latest releases: {verdict}")
    return ExitStatus.NEGATIVE if found.problems else ExitStatus.OK


def _show(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.release.repository_check import open_read_only
    from jepa_export.release.repository_tables import releases_table, roles_table

    repository = open_read_only(arguments.repo)
    for table in (roles_table(repository), releases_table(repository)):
        Console().print(table)
    return 0


def _days(text: str) -> int:
    from jepa_export.errors import JepaExportError

    try:
        return int(text)
    except ValueError as error:
        raise JepaExportError(
            f"--lifetime: {text!r} is not a number of days", code="release.invalid_lifetime"
        ) from error


def _keys(arguments: argparse.Namespace) -> KeyRing:
    from jepa_export.release.keys import KeyRing, PassphraseSource

    repo = arguments.repo.resolve()
    folders = arguments.keys or [repo.with_name(f"{repo.name}.keys")]
    offline = getattr(arguments, "offline_keys", None)
    next_to_repo = repo.with_name(f"{repo.name}.offline-keys")
    if offline is None and not arguments.keys:
        creates = arguments.run is _init and arguments.policy != "dev"
        offline = next_to_repo if creates or next_to_repo.is_dir() else None
    return KeyRing(
        *folders,
        offline=offline,
        passphrases=PassphraseSource(arguments.passphrase_file),
        encrypt=getattr(arguments, "encrypt", False),
    )


def _opened(arguments: argparse.Namespace) -> AbstractContextManager[Repository]:
    from jepa_export.release.repository import Repository

    return Repository.opened(arguments.repo, _keys(arguments))


def _policy(arguments: argparse.Namespace) -> Policy:
    from jepa_export.release.roles import POLICIES, Quorum

    policy: Policy = POLICIES[arguments.policy]
    for role in _QUORUMS:
        threshold = getattr(arguments, f"{role}_threshold", None)
        keys = getattr(arguments, f"{role}_keys", None)
        if threshold is not None or keys is not None:
            given: Quorum = getattr(policy, role)
            threshold = given.threshold if threshold is None else threshold
            quorum = Quorum(threshold, max(given.keys, threshold) if keys is None else keys)
            policy = replace(policy, **{role: quorum})
            if role == "channel":
                policy = replace(policy, canary=quorum)
    return policy


def _externals(arguments: argparse.Namespace) -> dict[str, list[ExternalKey]]:
    from jepa_export.release.keys import ExternalKey

    found: dict[str, list[ExternalKey]] = {}
    for role, uri, public in arguments.signer:
        found.setdefault(role, []).append(ExternalKey(uri, Path(public)))
    return found


def _sequence(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256 of 64 hexadecimal digits")
    return text.lower()


def _print_release(channel: str, release: Release) -> None:
    _print(
        f"{release.model_id} {release.version} is release {release.release_seq} of channel {channel}, "
        f"for {release.rollout.percent:g} % of the robots ({', '.join(release.hardware_ids)})"
    )


def _check_not_expired(repository: Repository) -> None:
    """Check that robots accept what was just signed.

    Raises:
        JepaExportError: A role that robots need expired.
    """
    from jepa_export.errors import JepaExportError

    if repository.expired:
        raise JepaExportError(
            f"{repository.folder}: the change was signed and written, but robots reject it, because "
            f"{', '.join(repository.expired)} expired: run jepa-export release resign",
            code="release.expired",
        )


def _print(text: str, style: str | None = None) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(text, style=style, markup=False, highlight=False)
