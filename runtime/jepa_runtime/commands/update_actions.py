"""What the actions of ``jepa-runtime update`` do."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
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
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.hawkbit import saved_state as orders
from jepa_runtime.ota.hawkbit.agent import KEPT, HawkbitAgent
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import Result, State
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util.output_files import STDOUT, write_json
from jepa_runtime.util.strict_json import describe

_STATUS: dict[Result, int] = {
    "none": 0,
    "updated": 0,
    "unchanged": 0,
    "reverted": 3,
    "refused": 3,
    "undecided": 4,
    "failed": 1,
}
# Of `status`, for whatever monitors robots.
_ALARM_STATUS = 5
_Opened = Callable[..., AbstractContextManager[Client]]
_NEEDED = ("trusted_root", "repository", "model", "hardware")


def run(args: argparse.Namespace) -> int:
    """Run one of them.

    Raises:
        JepaRuntimeError: it failed.
    """
    return _ACTIONS[args.action](args)


def _provision(args: argparse.Namespace) -> int:
    if args.rebuild:
        return _tell(args, provisioning.rebuild(args.root), "The state was made again.")
    missing = ["--" + name.replace("_", "-") for name in _NEEDED if getattr(args, name) is None]
    if missing:
        raise UpdateError(f"{args.root}: to set it up, give {', '.join(missing)} as well")
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
        raise UpdateError(f"{args.root}: {describe(error)}") from error
    except OSError as error:
        raise UpdateError(f"{args.trusted_root}: cannot be read: {error.strerror}") from error
    provisioning.check_root(trusted_root, str(args.trusted_root))
    kept = provisioning.provision(args.root, settings, trusted_root, bundle=args.bundle)
    return _tell(args, kept, f"{args.root} is set up; {args.root / robot.CONFIG} may be edited.")


def _address(given: str) -> str:
    """A folder from its root on: who updates later, a service, works in another one.

    Raises:
        UpdateError: it is an address that is neither of a web server nor of a folder.
    """
    if given.startswith(("http://", "https://")):
        return given
    if "://" in given:
        raise UpdateError(f"{given}: give http://…, https://… or a folder")
    return str(Path(given).absolute())


def _check(args: argparse.Namespace) -> int:
    return _worked(args, lambda opened: partial(_look, opened))


def _look(opened: _Opened, alive: daemon.Alive) -> State:
    with opened(alive=alive) as client:
        client.check()
        return client.state


def _apply(args: argparse.Namespace) -> int:
    return _worked(args, daemon.carrying)


def _rollback(args: argparse.Namespace) -> int:
    kept = operator_requests.rollback(args.root, args.reason)
    return _tell(args, kept, status=1 if kept.alarm else 0)


def _approve(args: argparse.Namespace) -> int:
    kept = operator_requests.approve(args.root)
    print("approved" + ("" if kept.work is None else f": {kept.work.release.version} may be switched to"))
    return 0


def _cancel(args: argparse.Namespace) -> int:
    return _tell(args, operator_requests.cancel(args.root, args.reason))


def _status(args: argparse.Namespace) -> int:
    now = state.load(args.root / robot.STATE)
    found = alarms(args.root, now)
    table = status_table(now, found, _hawkbit_asked(args.root))
    return _tell(args, now, table=table, status=_ALARM_STATUS if found else 0)


def _hawkbit_asked(root: Path) -> str:
    with suppress(JepaRuntimeError):
        if config.load(root / robot.CONFIG).hawkbit is not None:
            return moment(orders.load(root / KEPT).reached_at)
    return ""


def _pin(args: argparse.Namespace, *, pinned: bool) -> int:
    operator_requests.pin(args.root, pinned=pinned)
    print("pinned" if pinned else "takes updates")
    return 0


def _history(args: argparse.Namespace) -> int:
    entries = list(_log(args.root).entries())[-args.n :]
    if args.json is not None:
        write_json(args.json, [entry._asdict() for entry in entries])
    if args.json != STDOUT:
        open_console().print(history_table(entries))
    return 0


def _daemon(args: argparse.Namespace) -> int:
    def log(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    folder_owner.require_owner(args.root)
    path, opened = args.root / robot.CONFIG, partial(robot.open_client, args.root)
    round_ = daemon.ordinary(opened, lambda: config.load(path).poll_s, log, lambda: _alarms(args.root))
    if config.load(path).hawkbit is not None:
        round_ = HawkbitAgent(args.root, opened, log=log)
    with stop_on_signals() as stopping:
        daemon.run(round_, stopping=stopping, log=log, root=args.root, due=daemon.crashing(args.root))
    return 0


def _alarms(root: Path) -> list[str]:
    with suppress(JepaRuntimeError):
        return alarms(root, state.load(root / robot.STATE))
    return []


def _verify(args: argparse.Namespace) -> int:
    found: dict[str, str] = {}
    for what, check in _checks(args.root).items():
        try:
            found[what] = check()
        except JepaRuntimeError as error:
            found[what] = f"WRONG: {error}"
    wrong = any(told.startswith("WRONG") for told in found.values())
    if args.json is not None:
        write_json(args.json, {"ok": not wrong, "found": found})
    if args.json != STDOUT:
        for what, told in found.items():
            print(f"{what}: {told}")
    return int(wrong)


def _checks(root: Path) -> dict[str, Callable[[], str]]:
    store = SlotStore(root)

    @cache
    def bundle(slot: str | None) -> str:
        if slot is None:
            return "none"
        opened = store.open(slot)
        return f"{opened.manifest.model_id} {opened.manifest.version}, every file has its hash"

    return {
        "config": lambda: f"channel {config.load(root / robot.CONFIG).channel}",
        "state": lambda: str(state.load(root / robot.STATE).phase),
        "current": lambda: bundle(store.current()),
        "good": lambda: bundle(store.good()),
        "slots": lambda: f"{len([bundle(slot) for slot in store.present()])} whole",
        "log": lambda: f"{sum(1 for _ in _log(root).entries())} entries, each follows the one before it",
    }


def _log(root: Path) -> AuditLog:
    return AuditLog(root / robot.AUDIT, robot.utc_now)


def _worked(args: argparse.Namespace, working: Callable[[_Opened], Callable[[daemon.Alive], State]]) -> int:
    """Work with a client, with what it does shown on standard error."""
    compares = config.load(args.root / robot.CONFIG).shadow is not None
    with (
        stop_on_signals() as stopping,
        daemon.watched(stopping) as alive,
        Transfer(open_console(stderr=True), compares=compares) as transfer,
    ):
        opened = partial(
            robot.open_client,
            args.root,
            source=args.source,
            progress=transfer.progress,
            tell=transfer.tell,
            any_interface=args.any_interface,
            again=args.again,
        )
        kept = daemon.going_on(working(opened), alive, args.root)
    return _tell(args, kept, status=_STATUS[kept.result])


def _tell(
    args: argparse.Namespace, kept: State, line: str = "", *, status: int = 0, table: Table | None = None
) -> int:
    found = alarms(args.root, kept)
    if args.json is not None:
        write_json(args.json, state.as_json(kept) | {"alarms": found})
    if args.json != STDOUT:
        open_console().print(table) if table is not None else print(line or summary(kept))
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
