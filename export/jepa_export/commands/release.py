"""jepa-export release: a repository of signed releases, and what is in it."""

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
from jepa_runtime.commands.arguments import count, positive

if TYPE_CHECKING:
    from jepa_export.release.keys import External, KeyRing
    from jepa_export.release.repository import Repository
    from jepa_export.release.roles import Policy
    from jepa_runtime.ota.release import Release

_QUORUMS = ("root", "targets", "channel")


def add_parser(subparsers: Any) -> None:
    """Add ``release`` and what belongs to it to the commands of jepa-export."""
    release = subparsers.add_parser(
        "release",
        help="publish models for robots to fetch",
        description="A repository of signed releases (The Update Framework): a folder for any web server. "
        "Serve REPO/metadata and REPO/targets; the keys lie outside.",
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
        help="versions of each model in each channel whose files stay (default: %(default)s)",
    )
    prune.add_argument(
        "--after",
        type=number_types.days,
        default=1.0,
        metavar="DAYS",
        help="leave younger files, which a robot may be reading (default: %(default)g)",
    )
    for name, run, what in (
        ("check", _check, "verify all signatures, the hash of every file, and that each release is whole"),
        ("show", _show, "show roles, keys and releases"),
    ):
        _command(commands, name, run, what)


def _command(commands: Any, name: str, run: Callable[..., int], what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what.capitalize() + "."
    )
    parser.add_argument("repo", type=Path, metavar="REPO", help="folder of the repository")
    parser.set_defaults(run=run, needs=(), stopped="what robots see is whole: the old state, or the new one")
    return parser


def _signing_command(
    commands: Any, name: str, run: Callable[..., int], what: str, *, creates: bool = False
) -> argparse.ArgumentParser:
    parser = _command(commands, name, run, what)
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of keys, again for others; a new key goes to other keys of its role, else into the first"
        " (default: REPO.keys and REPO.offline-keys, next to REPO)",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="passphrase of encrypted keys, in its first line (default: the environment variable "
        "JEPA_EDGE_KEY_PASSPHRASE, else a prompt)",
    )
    if creates:
        parser.add_argument("--encrypt", action="store_true", help="protect new keys with the passphrase")
    return parser


def _add_publishing(commands: Any) -> None:
    publish = _signing_command(commands, "publish", _publish, "release a bundle in a channel")
    publish.add_argument("bundle", type=Path, metavar="BUNDLE")
    publish.add_argument("--channel", required=True)
    publish.add_argument(
        "--release-seq", type=_sequence, metavar="auto|N", help="above that of the last (default: by one)"
    )
    publish.add_argument(
        "--percent", type=number_types.percent, default=100.0, help="of the robots (%(default)g)"
    )
    publish.add_argument("--salt", help="chooses these robots (default: the model's name)")
    publish.add_argument(
        "--hardware", action="append", metavar="ID", help="kind of robot, again for others (default: any)"
    )
    publish.add_argument(
        "--latency-p99-ms", type=positive, metavar="MS", help="p99 latency budget of a frame"
    )
    publish.add_argument("--peak-memory-mb", type=positive, metavar="MB", help="that the model may take")
    publish.add_argument(
        "--max-error-ratio",
        type=positive,
        metavar="R",
        help="its prediction error over the model's before it",
    )
    publish.add_argument(
        "--deltas",
        type=number_types.count,
        default=3,
        metavar="N",
        help="from the last N releases (%(default)s)",
    )
    publish.add_argument("--allow-untrained", action="store_true", help="random weights, to measure speed")
    publish.add_argument("--accept-non-commercial", action="store_true", help="a model that is so licensed")
    publish.add_argument("--engine", default="openvino:CPU", metavar="E", help="that checks it (%(default)s)")
    rollout = _signing_command(commands, "rollout", _rollout, "offer the latest release to more robots")
    rollout.add_argument("--percent", type=number_types.percent, required=True)
    rollout.add_argument("--shrink", action="store_true", help="allow a smaller part than before")
    revoke = _signing_command(commands, "revoke", _revoke, "let no robot run a release any more")
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("--release-seq", type=int, metavar="N", help="a release of this channel, by number")
    which.add_argument(
        "--manifest",
        type=_sha256,
        metavar="SHA256",
        help="any bundle, by the SHA-256 of its manifest.json: one that a thief has signed, for instance",
    )
    downgrade = _signing_command(commands, "downgrade", _downgrade, "release an old version again")
    downgrade.add_argument("--version", required=True)
    downgrade.add_argument(
        "--percent", type=number_types.percent, default=100.0, help="of the robots (%(default)g)"
    )
    for parser in (rollout, revoke, downgrade):
        parser.add_argument("--channel", required=True)
        parser.add_argument("--model", required=True)


def _add_signing(commands: Any) -> None:
    init = _signing_command(commands, "init", _init, "make a repository and its keys", creates=True)
    init.add_argument("--channel", action="append", metavar="NAME", help="again for others (stable, canary)")
    init.add_argument(
        "--offline-keys",
        type=Path,
        metavar="DIR",
        help="folder for the keys of root and targets (default: REPO.offline-keys; with --policy dev that of"
        " the others)",
    )
    init.add_argument(
        "--lifetime",
        action="append",
        nargs=2,
        default=[],
        metavar=("ROLE", "DAYS"),
        help="days that signatures of a role are valid, again for others (see `lifetime`)",
    )
    add_channel = _signing_command(commands, "add-channel", _add_channel, "add a channel", creates=True)
    add_channel.add_argument("name", metavar="NAME")
    for parser, roles in ((init, _QUORUMS), (add_channel, ("channel",))):
        parser.add_argument(
            "--policy",
            choices=("standard", "fleet", "dev"),
            default="standard",
            help="standard: root 2 of 3 keys, other roles 1, root and targets in a folder of their own;"
            " fleet: root 3 of 5, targets and channels 2 of 3, canary 1; dev: one key for each role, all in"
            " one folder, for demos and tests (default: %(default)s)",
        )
        for role in roles:
            parser.add_argument(f"--{role}-threshold", type=int, metavar="N", help="signatures it takes")
            parser.add_argument(f"--{role}-keys", type=int, metavar="M", help="keys it has")
        parser.add_argument(
            "--signer",
            action="append",
            nargs=3,
            default=[],
            metavar=("ROLE", "URI", "PUBLIC.pem"),
            help="a key in a key service or hardware module (securesystemslib), instead of a new one",
        )
    resign = _signing_command(commands, "resign", _resign, "sign anew what expires soon; to be run daily")
    resign.add_argument(
        "--within", type=number_types.days, metavar="DAYS", help="(default: a quarter of its lifetime)"
    )
    lifetime = _signing_command(
        commands, "lifetime", _lifetime, "set how long signatures of a role are valid"
    )
    lifetime.add_argument("role", metavar="ROLE", help="root, targets, snapshot, timestamp or channel-NAME")
    lifetime.add_argument("days", type=int, metavar="DAYS")
    rotate = _signing_command(
        commands, "rotate", _rotate, "replace a key of a role by a new one", creates=True
    )
    rotate.add_argument("role", metavar="ROLE")
    rotate.add_argument("--key", metavar="ID", help="the key to retire, where the role has several")
    rotate.add_argument("--signer", nargs=2, metavar=("URI", "PUBLIC.pem"), help="the new key, as in init")


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
    _say(f"channels {', '.join(repository.channels)}; robots start from {root}")
    if keys.offline is None:
        _say(
            f"all keys are in {keys.folders[0]}: keep copies, and those of root and targets off this machine"
        )
    else:
        _say(f"keys that sign releases are in {keys.folders[0]}: keep a copy")
        _say(
            f"keys of root and targets are in {keys.offline}: move each to a disk of its own, with copies,"
            " and off this machine; they are needed for new channels, other keys, and before they expire"
        )
    if not arguments.encrypt:
        _say("no key has a passphrase: --encrypt gives new ones one")
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
    _say(f"{arguments.bundle}: whole, and computes here what it should in {', '.join(checked)}")
    names = ("latency_p99_ms", "peak_memory_mb", "max_error_ratio")
    budgets = {name: value for name in names if (value := getattr(arguments, name)) is not None}
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
    _tell(arguments.channel, release)
    if release.deltas:
        size = sum(delta.bytes for delta in release.deltas) / 1e3
        _say(f"deltas from earlier releases: {len(release.deltas)}, {size:.1f} kB")
    _check_reach(repository)
    return 0


def _rollout(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import rollout

    with _opened(arguments) as repository:
        release = rollout(
            repository, arguments.channel, arguments.model, arguments.percent, shrink=arguments.shrink
        )
    _tell(arguments.channel, release)
    _check_reach(repository)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import revoke, revoke_manifest

    with _opened(arguments) as repository:
        if arguments.manifest is not None:
            release = revoke_manifest(repository, arguments.channel, arguments.model, arguments.manifest)
        else:
            release = revoke(repository, arguments.channel, arguments.model, arguments.release_seq)
    revoked = ", ".join((*map(str, release.revoked), *release.revoked_manifests))
    _say(f"revoked releases of {release.model_id} in {arguments.channel}: {revoked}")
    _check_reach(repository)
    return 0


def _downgrade(arguments: argparse.Namespace) -> int:
    from jepa_export.release.publish import downgrade

    with _opened(arguments) as repository:
        release = downgrade(
            repository, arguments.channel, arguments.model, arguments.version, percent=arguments.percent
        )
    _tell(arguments.channel, release)
    _check_reach(repository)
    return 0


def _resign(arguments: argparse.Namespace) -> int:
    from jepa_export.errors import JepaExportError
    from jepa_export.release.roles import resign

    within = None if arguments.within is None else timedelta(days=arguments.within)
    with _opened(arguments) as repository:
        signed, missing = resign(repository, within)
        for role in signed:
            found = repository.signed[role]
            _say(f"{role} {found.version} counts until {found.expires:%Y-%m-%d}")
    if missing:
        raise JepaExportError(
            f"{', '.join(missing)} expire soon, but too few of their keys are at hand: name the folders that "
            "have them (--keys)"
        )
    if not signed:
        _say("nothing expires soon")
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from jepa_export.release.keys import External, short_id
    from jepa_export.release.roles import rotate

    external = External(arguments.signer[0], Path(arguments.signer[1])) if arguments.signer else None
    with _opened(arguments) as repository:
        old, new = rotate(repository, arguments.role, retire=arguments.key, external=external)
    _say(f"{arguments.role}: key {short_id(new)} signs, {short_id(old)} no more: destroy that one")
    return 0


def _lifetime(arguments: argparse.Namespace) -> int:
    from jepa_export.release.roles import change_lifetime

    with _opened(arguments) as repository:
        change_lifetime(repository, arguments.role, arguments.days)
        _say(f"{arguments.role} counts until {repository.signed[arguments.role].expires:%Y-%m-%d}")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from jepa_export.release.prune import prune

    with _opened(arguments) as repository:
        pruned = prune(repository, keep=arguments.keep, after=timedelta(days=arguments.after))
    for version in pruned.versions:
        _say(f"pruned {version}: it cannot be released again")
    _say(f"removed {pruned.files} files, {pruned.size / 1e6:.1f} MB")
    return 0


def _add_channel(arguments: argparse.Namespace) -> int:
    from jepa_export.release.repository import channel_role
    from jepa_export.release.roles import add_channel

    externals = _externals(arguments).get(channel_role(arguments.name), [])
    with _opened(arguments) as repository:
        add_channel(repository, arguments.name, _policy(arguments), externals)
        _say(f"channels {', '.join(repository.channels)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from jepa_export.release.repository import utc_now
    from jepa_export.release.repository_check import check

    found = check(arguments.repo, utc_now())
    for problem in found.problems:
        _say(problem, style="red")
    verdict = f"{len(found.problems)} problems" if found.problems else "all is as it was signed"
    _say(f"{found.files} files, {found.size / 1e6:.1f} MB, {found.releases} latest releases: {verdict}")
    return 1 if found.problems else 0


def _show(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.release.repository_check import look
    from jepa_export.release.repository_tables import releases_table, roles_table

    repository = look(arguments.repo)
    for table in (roles_table(repository), releases_table(repository)):
        Console().print(table)
    return 0


def _days(text: str) -> int:
    from jepa_export.errors import JepaExportError

    try:
        return int(text)
    except ValueError as error:
        raise JepaExportError(f"--lifetime: {text!r} is no number of days") from error


def _keys(arguments: argparse.Namespace) -> KeyRing:
    from jepa_export.release.keys import KeyRing, Passphrases

    repo = arguments.repo.resolve()
    folders = arguments.keys or [repo.with_name(f"{repo.name}.keys")]
    offline = getattr(arguments, "offline_keys", None)
    next_to_repo = repo.with_name(f"{repo.name}.offline-keys")
    if offline is None and not arguments.keys:
        begins = arguments.run is _init and arguments.policy != "dev"
        offline = next_to_repo if begins or next_to_repo.is_dir() else None
    return KeyRing(
        *folders,
        offline=offline,
        passphrases=Passphrases(arguments.passphrase_file),
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


def _externals(arguments: argparse.Namespace) -> dict[str, list[External]]:
    from jepa_export.release.keys import External

    found: dict[str, list[External]] = {}
    for role, uri, public in arguments.signer:
        found.setdefault(role, []).append(External(uri, Path(public)))
    return found


def _sequence(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256: 64 hexadecimal digits are expected")
    return text.lower()


def _tell(channel: str, release: Release) -> None:
    _say(
        f"{release.model_id} {release.version} is release {release.release_seq} of channel {channel}, "
        f"for {release.rollout.percent:g} % of the robots ({', '.join(release.hardware_ids)})"
    )


def _check_reach(repository: Repository) -> None:
    """Raises JepaExportError if no robot takes what was just signed."""
    from jepa_export.errors import JepaExportError

    if repository.expired:
        raise JepaExportError(
            f"{repository.folder}: this is signed and written, but no robot takes it: "
            f"{', '.join(repository.expired)} expired: sign that anew with jepa-export release resign"
        )


def _say(text: str, style: str | None = None) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(text, style=style, markup=False, highlight=False)
