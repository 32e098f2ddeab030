"""A repository as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from jepa_export.release.keys import short_id
from jepa_export.release.publish import history, is_revoked, latest, models
from jepa_export.release.repository import Repository, channel_role


def roles_table(repository: Repository) -> Table:
    """Who signs what, and until when it counts."""
    table = Table("role", "version", "expires", "in days", "sign", title="Roles", title_justify="left")
    table.add_column("keys", overflow="fold")
    for role in ("root", "targets", *map(channel_role, repository.channels), "snapshot", "timestamp"):
        signed, known = repository.signed[role], repository.delegator(role).get_delegated_role(role)
        days = (signed.expires - repository.now()).total_seconds() / 86400
        table.add_row(
            role,
            str(signed.version),
            f"{signed.expires:%Y-%m-%d}",
            f"{days:.1f}" if days > 0 else f"[red]{days:.1f}[/]",
            f"{known.threshold} of {len(known.keyids)}",
            " ".join(map(short_id, known.keyids)),
        )
    return table


def releases_table(repository: Repository) -> Table:
    """Every version of every channel; the latest release with its terms."""
    table = Table("channel", "model", "version", "releases", "offered to", "for", "deltas", "")
    table.title, table.title_justify = "Releases", "left"
    for row in _rows(repository):
        table.add_row(*row)
    return table


def _rows(repository: Repository) -> Iterator[tuple[str, ...]]:
    for channel in repository.channels:
        for model in models(repository, channel):
            release = latest(repository, channel, model)
            versions = history(repository, channel, model)
            for version, numbers in sorted(versions.items(), key=lambda item: -max(item[1])):
                named = ", ".join(map(str, numbers))
                if release is not None and version == release.version:
                    terms = (
                        f"{release.rollout.percent:g} %",
                        ", ".join(release.hardware_ids),
                        str(len(release.deltas)),
                        "[green]latest[/]",
                    )
                else:
                    gone = release is not None and is_revoked(numbers, release)
                    terms = ("", "", "", "[red]revoked[/]" if gone else "")
                yield (channel, model, version, named, *terms)
