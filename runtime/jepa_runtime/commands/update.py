"""The actions of ``jepa-runtime update``."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from jepa_runtime.commands.arguments import open_console
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.commands.update_view import Transfer, history_table, moment, status_table, summary
from jepa_runtime.errors import JepaRuntimeError, UpdateError, printable
from jepa_runtime.ota import config, daemon, operator_requests, provisioning, robot, state
from jepa_runtime.ota.audit_log import AuditLog
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.hawkbit import saved_state as orders
from jepa_runtime.ota.hawkbit.agent import STATE_FILE, HawkbitAgent
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import Result, State
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util.output_files import STDOUT, write_json
from jepa_runtime.util.strict_json import describe_problems

_STATUS: dict[Result, int] = {
    "none": 0,
    "updated": 0,
    "unchanged": 0,
    "rolled_back": 3,
    "rejected": 3,
    "undecided": 4,
    "failed": 1,
}
# Exit status of `status`, for monitoring.
_ALARM_STATUS = 5
_NEEDED = ("trusted_root", "repository", "model", "hardware")


def run(args: argparse.Namespace) -> int:
    """Run one action.

    Raises:
        JepaRuntimeError: The action failed.
    """
    return _ACTIONS[args.action](args)


def _provision(args: argparse.Namespace) -> int:
    if args.rebuild:
        return _print_state(args, provisioning.rebuild(args.robot), "The state was rebuilt.")
    missing = ["--" + name.replace("_", "-") for name in _NEEDED if getattr(args, name) is None]
    if missing:
        raise UpdateError(
            f"{args.robot}: to provision it, add {', '.join(missing)}", code="update.missing_option"
        )
    try:
        settings = Config(
            repository=_address(args.repository),
            targets=None if args.targets is None else _address(args.targets),
            channel=args.channel,
            model_id=args.model,
            device_id=args.device_id or socket.gethostname(),
            hardware_ids=tuple(args.hardware),
            engine=args.engine,
            precision=args.precision,
            allow_untrained=args.allow_untrained,
        )
        trusted_root = args.trusted_root.read_bytes()
    except ValidationError as error:
        raise UpdateError(
            f"{args.robot}: {describe_problems(error)}", code="update.config_invalid"
        ) from error
    except OSError as error:
        raise UpdateError(
            f"{args.trusted_root}: cannot be read: {error.strerror}", code="update.trusted_root_unreadable"
        ) from error
    provisioning.check_root(trusted_root, str(args.trusted_root))
    stored = provisioning.provision(args.robot, settings, trusted_root, bundle=args.bundle)
    return _print_state(
        args, stored, f"{args.robot} is provisioned; its configuration is {args.robot / robot.CONFIG}."
    )


def _address(given: str) -> str:
    """Return a web address as it is, or the absolute path of a folder: services run in another folder.

    Raises:
        UpdateError: It is neither.
    """
    if given.startswith(("http://", "https://")):
        return given
    if "://" in given:
        raise UpdateError(
            f"{given}: unsupported address: use http://…, https://… or a folder",
            code="update.invalid_address",
        )
    return str(Path(given).absolute())


def _check(args: argparse.Namespace) -> int:
    return _run_client(args, lambda open_client: partial(_check_once, open_client))


def _check_once(open_client: robot.ClientOpener, heartbeat: daemon.Heartbeat) -> State:
    with open_client(heartbeat=heartbeat) as client:
        client.check()
        return client.state


def _apply(args: argparse.Namespace) -> int:
    return _run_client(args, daemon.resumable_update)


def _rollback(args: argparse.Namespace) -> int:
    stored = operator_requests.rollback(args.robot, args.reason)
    return _print_state(args, stored, status=1 if stored.alarm else 0)


def _approve(args: argparse.Namespace) -> int:
    stored = operator_requests.approve(args.robot)
    print(
        "approved"
        + ("" if stored.candidate is None else f": {stored.candidate.release.version} will be activated")
    )
    return 0


def _cancel(args: argparse.Namespace) -> int:
    return _print_state(args, operator_requests.cancel(args.robot, args.reason))


def _status(args: argparse.Namespace) -> int:
    now = state.load(args.robot / robot.STATE)
    found = alarms(args.robot, now)
    table = status_table(now, found, _hawkbit_reached(args.robot))
    return _print_state(args, now, table=table, status=_ALARM_STATUS if found else 0)


def _hawkbit_reached(root: Path) -> str:
    with suppress(JepaRuntimeError):
        if config.load(root / robot.CONFIG).hawkbit is not None:
            return moment(orders.load(root / STATE_FILE).reached_at)
    return ""


def _pin(args: argparse.Namespace, *, pinned: bool) -> int:
    operator_requests.pin(args.robot, pinned=pinned)
    print("pinned" if pinned else "updates are enabled")
    return 0


def _history(args: argparse.Namespace) -> int:
    entries = list(_log(args.robot).entries())[-args.n :]
    if args.json is not None:
        write_json(args.json, [entry._asdict() for entry in entries])
    if args.json != STDOUT:
        open_console().print(history_table(entries))
    return 0


def _daemon(args: argparse.Namespace) -> int:
    def log(level: int, line: str) -> None:
        label = {logging.ERROR: "error: ", logging.CRITICAL: "ALARM: "}.get(level, "")
        print(f"{label}{printable(line)}", file=sys.stderr, flush=True)

    folder_owner.require_owner(args.robot)
    path, open_client = args.robot / robot.CONFIG, partial(robot.open_client, args.robot)
    round_ = daemon.polling_round(
        open_client, lambda: config.load(path).poll_s, log, lambda: _alarms(args.robot)
    )
    if config.load(path).hawkbit is not None:
        round_ = HawkbitAgent(args.robot, open_client, log=log)
    with stop_on_signals() as stopping:
        daemon.run(
            round_, stopping=stopping, log=log, root=args.robot, wake=daemon.crash_detector(args.robot)
        )
    return 0


def _alarms(root: Path) -> list[str]:
    with suppress(JepaRuntimeError):
        return alarms(root, state.load(root / robot.STATE))
    return []


def _verify(args: argparse.Namespace) -> int:
    found: dict[str, str] = {}
    for what, check in _checks(args.robot).items():
        try:
            found[what] = check()
        except JepaRuntimeError as error:
            found[what] = f"FAILED: {error}"
    wrong = any(result.startswith("FAILED") for result in found.values())
    if args.json is not None:
        write_json(args.json, {"ok": not wrong, "found": found})
    if args.json != STDOUT:
        for what, result in found.items():
            print(f"{what}: {result}")
    return int(wrong)


def _checks(root: Path) -> dict[str, Callable[[], str]]:
    store = SlotStore(root)

    @cache
    def bundle(slot: str | None) -> str:
        if slot is None:
            return "none"
        bundle_ = store.open(slot)
        return f"{bundle_.manifest.model_id} {bundle_.manifest.version}, all hashes match"

    return {
        "config": lambda: f"channel {config.load(root / robot.CONFIG).channel}",
        "state": lambda: str(state.load(root / robot.STATE).phase),
        "current": lambda: bundle(store.current()),
        "good": lambda: bundle(store.good()),
        "slots": lambda: f"{len([bundle(slot) for slot in store.present()])} complete",
        "log": lambda: f"{sum(1 for _ in _log(root).entries())} entries, the chain is intact",
    }


def _log(root: Path) -> AuditLog:
    return AuditLog(root / robot.AUDIT, robot.utc_now)


def _run_client(
    args: argparse.Namespace,
    action: Callable[[robot.ClientOpener], Callable[[daemon.Heartbeat], State]],
) -> int:
    """Run an action with an update client, and show its progress on standard error."""
    has_frames = config.load(args.robot / robot.CONFIG).shadow is not None
    with (
        stop_on_signals() as stopping,
        daemon.heartbeat_watchdog(stopping) as heartbeat,
        Transfer(open_console(stderr=True), has_frames=has_frames) as transfer,
    ):
        open_client = partial(
            robot.open_client,
            args.robot,
            options=robot.UpdateOptions(
                source=args.source, any_interface=args.any_interface, retry_rejected=args.retry_rejected
            ),
            callbacks=robot.UpdateCallbacks(on_state=transfer.on_state, on_progress=transfer.progress),
        )
        stored = daemon.run_yielding(action(open_client), heartbeat, args.robot)
    return _print_state(args, stored, status=_STATUS[stored.result])


def _print_state(
    args: argparse.Namespace, stored: State, line: str = "", *, status: int = 0, table: Table | None = None
) -> int:
    found = alarms(args.robot, stored)
    if args.json is not None:
        write_json(args.json, state.as_json(stored) | {"alarms": found})
    if args.json != STDOUT:
        open_console().print(table) if table is not None else print(line or summary(stored))
    for alarm in found:
        print(f"jepa-runtime update: ALARM: {printable(alarm)}", file=sys.stderr)
    return status


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "provision": _provision,
    "check": _check,
    "apply": _apply,
    "status": _status,
    "rollback": _rollback,
    "approve": _approve,
    "cancel": _cancel,
    "pin": partial(_pin, pinned=True),
    "unpin": partial(_pin, pinned=False),
    "history": _history,
    "daemon": _daemon,
    "verify": _verify,
}
