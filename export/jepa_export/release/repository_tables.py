"""Tables of the roles and releases of a repository."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from jepa_export.release.keys import short_id
from jepa_export.release.publish import is_revoked
from jepa_export.release.repository import Repository, channel_role
from jepa_export.release.versions import latest, models, read_history


def roles_table(repository: Repository) -> Table:
    """Return the roles with their keys and expiry dates."""
    table = Table("role", "version", "expires", "in days", "threshold", title="Roles", title_justify="left")
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
    """Return every version in every channel; the latest release with its terms."""
    table = Table("channel", "model", "version", "releases", "offered to", "for", "deltas", "")
    table.title, table.title_justify = "Releases", "left"
    for row in _rows(repository):
        table.add_row(*row)
    return table


def _rows(repository: Repository) -> Iterator[tuple[str, ...]]:
    for channel in repository.channels:
        for model in models(repository, channel):
            release = latest(repository, channel, model)
            versions = read_history(repository, channel, model)
            for version, known in sorted(versions.items(), key=lambda item: -max(item[1].released_as)):
                numbers = known.released_as
                named = ", ".join(map(str, numbers))
                if release is not None and version == release.version:
                    terms = (
                        f"{release.rollout.percent:g} %",
                        ", ".join(release.hardware_ids),
                        str(len(release.deltas)),
                        "[green]latest[/]",
                    )
                else:
                    revoked = release is not None and (
                        is_revoked(numbers, release)
                        or known.release.manifest_sha256 in release.revoked_manifests
                    )
                    marks = [("[red]revoked[/]", revoked), ("pruned", known.pruned)]
                    terms = ("", "", "", " ".join(mark for mark, applies in marks if applies))
                yield (channel, model, version, named, *terms)
