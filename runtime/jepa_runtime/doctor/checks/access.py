"""Check access to device nodes; shared by the checks of several devices."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from jepa_runtime.doctor.finding import (
    Check,
    Context,
    Evidence,
    Severity,
    Verdict,
    apply_system_files,
    info,
    ok,
)
from jepa_runtime.doctor.system import Account, Node


def check_access(
    context: Context,
    nodes: Mapping[str, Node],
    what: str,
    group: str,
    device: str | None,
    severity: Severity = Severity.ERROR,
    read_only: Collection[str] = (),
) -> Verdict:
    """Return whether the account may read and write all ``nodes``.

    Args:
        context: The examined machine.
        nodes: The device nodes by path.
        what: The device, for the summary.
        group: The group that the nodes should belong to.
        device: The device whose system files set group and mode, or None if no system files do.
        severity: The severity if access is denied.
        read_only: Paths of nodes that need not be writable.

    Raises:
        UndeterminedError: The account cannot be determined.
    """
    account = context.system.facts.account()
    evidence = tuple(Evidence(path, str(node)) for path, node in nodes.items())
    required = [(node, 4 if path in read_only else 6) for path, node in nodes.items()]
    denied = [(node, bits) for node, bits in required if not node.permits(account, bits)]
    if not denied:
        return ok(f"account {account.name} can open {what}", *evidence)
    groups = Evidence(f"id -nG {account.name}", " ".join(sorted(account.groups)))
    remedy: list[str] = []
    if device and any(node.group != group or node.mode >> 3 & bits != bits for node, bits in denied):
        remedy += [
            apply_system_files(context, device),
            "sudo udevadm control --reload",
            "sudo udevadm trigger",
        ]
    remedy += join_group(group, account)
    return Verdict(
        severity,
        f"account {account.name} has no permission to open {what}",
        (*evidence, groups),
        tuple(remedy) or (f"# add a udev rule that gives the nodes the group {group} and mode 0660",),
    )


def join_group(group: str, account: Account) -> tuple[str, ...]:
    """Return the commands that add an account to a group; none if it is a member already."""
    if group in account.groups:
        return ()
    return (f"sudo usermod -aG {group} {shlex.quote(account.name)}", "# then log in again")


def _camera(context: Context) -> Verdict:
    nodes = context.system.facts.nodes("/dev/video*")
    if not nodes:
        return info(
            "no V4L2 camera found; not needed for network and ROS sources",
            Evidence("/dev/video*", "not found"),
        )
    return check_access(context, nodes, "the cameras", "video", None, Severity.WARNING)


CHECKS = (
    Check(
        "camera.node",
        "the account can open the cameras",
        "`/dev/video*`",
        "`usermod -aG video`",
        _camera,
    ),
)
