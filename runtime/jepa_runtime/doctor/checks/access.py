"""Whether an account may open device nodes; what the checks of several devices share."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, configs, info, ok
from jepa_runtime.doctor.system import Account, Node


def access(
    context: Context,
    nodes: Mapping[str, Node],
    what: str,
    group: str,
    device: str | None,
    severity: Severity = Severity.ERROR,
    read_only: Collection[str] = (),
) -> Verdict:
    """Whether the account may read and write all ``nodes``.

    Args:
        what: the device, for people.
        group: that to which its nodes should belong.
        device: of our system files, those that set group and mode; None: there are none.
        severity: of a node that is closed.
        read_only: paths of nodes that need not be written.

    Raises:
        UndeterminedError: who the account is cannot be told.
    """
    account = context.system.facts.account()
    seen = tuple(Evidence(path, str(node)) for path, node in nodes.items())
    asked = [(node, 4 if path in read_only else 6) for path, node in nodes.items()]
    closed = [(node, bits) for node, bits in asked if not node.open_to(account, bits)]
    if not closed:
        return ok(f"the account {account.name} may open {what}", *seen)
    who = Evidence(f"id -nG {account.name}", " ".join(sorted(account.groups)))
    remedy: list[str] = []
    if device and any(node.group != group or node.mode >> 3 & bits != bits for node, bits in closed):
        remedy += [configs(context, device), "sudo udevadm control --reload", "sudo udevadm trigger"]
    remedy += join(group, account)
    return Verdict(
        severity,
        f"the account {account.name} may not open {what}",
        (*seen, who),
        tuple(remedy) or (f"# give the nodes to the group {group}, mode 0660, by a rule of udev",),
    )


def join(group: str, account: Account) -> tuple[str, ...]:
    """The commands by which an account gets into a group; none if it is there."""
    if group in account.groups:
        return ()
    return (f"sudo usermod -aG {group} {shlex.quote(account.name)}", "# then log in again")


def _camera(context: Context) -> Verdict:
    nodes = context.system.facts.nodes("/dev/video*")
    if not nodes:
        return info(
            "there is no camera of V4L2; a network or ROS source needs none",
            Evidence("/dev/video*", "no such device"),
        )
    return access(context, nodes, "the cameras", "video", None, Severity.WARNING)


CHECKS = (
    Check(
        "camera.node",
        "the account may open the cameras",
        "`/dev/video*`",
        "`usermod -aG video`",
        _camera,
    ),
)
