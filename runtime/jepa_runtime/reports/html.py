"""Building blocks of self-contained HTML reports: no scripts, no external resources, light and dark.

Text that is not :class:`Html` is escaped, so that a name from a profile cannot become markup. The page's
Content-Security-Policy forbids scripts, and all resources except for embedded images.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from jepa_runtime.reports.page_data import element
from jepa_runtime.visualization.palette import (
    ALERT,
    BOUND,
    CARD,
    GOOD,
    PAPER,
    RULE,
    SECONDARY_TEXT,
    SERIES,
    TEXT,
)

# Pages with more sections have a list of them.
_MAX_WITHOUT_CONTENTS = 4
_VARIABLES = {
    "ink": TEXT,
    "soft": SECONDARY_TEXT,
    "paper": PAPER,
    "line": RULE,
    "card": CARD,
    "bound": BOUND,
    "alert": ALERT,
    "good": GOOD,
    **{f"c{index}": color for index, color in enumerate(SERIES)},
}
_LIGHT = " ".join(f"--{name}: {color.light};" for name, color in _VARIABLES.items())
_DARK = " ".join(f"--{name}: {color.dark};" for name, color in _VARIABLES.items())
_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} --ink: #000; --soft: #444; }} }}
"""
_STYLE += """
@media print {
  * { print-color-adjust: exact; }
  body { padding: 0; font-size: 12px; }
  figure, .card, .reading, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover { text-decoration: underline; }
nav { margin: 1rem 0 0; font-size: .85rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; }
nav a { color: var(--soft); }
p { margin: .4rem 0; max-width: 50rem; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
.subtitle, .note, figcaption { color: var(--soft); }
.note, figcaption { font-size: .85rem; }
.cards, .columns, .readings { display: grid; gap: .8rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); margin: 1.6rem 0 .8rem; }
.columns { grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.6rem 2rem; }
.readings { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.card, .reading { background: var(--card); border-radius: .6rem; padding: .7rem .9rem; min-width: 0; }
.card span, .card small, .reading figcaption { color: var(--soft); font-size: .85rem; display: block; }
.card b { display: block; font-size: 1.35rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
.card.main { border-left: 4px solid var(--c0); }
.alert, .card.alert b { color: var(--alert); }
.good { color: var(--good); }
figure { margin: 0; min-width: 0; }
section > figure + figure, figure + .columns { margin-top: 1.2rem; }
figure b { display: block; font-size: .95rem; margin-bottom: .2rem; }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
.film { display: flex; gap: .25rem; width: max-content; }
.film img:first-child { margin-right: .5rem; }
.scroll.wide > svg { min-width: 40rem; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
td small { display: block; color: var(--soft); font-size: .75rem; white-space: nowrap; }
table.numbers td, table.numbers th { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
table.numbers th, table.numbers .text { white-space: normal; overflow-wrap: normal; }
table.numbers .text { text-align: left; }
table.numbers td.text:first-child { overflow-wrap: anywhere; min-width: 7rem; }
tr:has(.share) td:first-child { min-width: 12rem; }
table.facts th { width: 14rem; }
.share { display: block; height: .25rem; margin-left: auto; border-radius: .15rem; background: var(--c0); }
td:has(.share) { min-width: 6rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; font-size: .85rem;
  color: var(--soft); }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: .15rem; margin-right: .35rem;
  background: var(--c); vertical-align: -.05rem; }
details { margin: .4rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); }
.s3 { --c: var(--c3); } .s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
.fill { fill: var(--c); }
.stroke { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.late { fill: var(--alert); }
.axis { stroke: var(--line); }
.limit { fill: none; stroke: var(--bound); stroke-width: 1.6; stroke-dasharray: 5 4; }
.whisker { stroke: var(--ink); stroke-width: 1.2; }
.faint { fill: none; opacity: .13; }
text { fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
text.strong { fill: var(--ink); }
text.alert { fill: var(--alert); }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  .scroll text { font-size: 15px; }
  .wide text { font-size: 17px; }
  .reading text { font-size: 12px; }
  table.facts th { width: 7rem; }
}
"""


class Html(str):
    """Text that is markup."""


def escape(value: str) -> Html:
    """Return ``value`` as markup, escaped unless it is markup."""
    return value if isinstance(value, Html) else Html(html.escape(value))


def join(parts: Iterable[str]) -> Html:
    """Concatenate the parts as markup."""
    return Html("".join(escape(part) for part in parts))


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading, which is in the list of contents."""

    title: str
    body: Html

    @property
    def anchor(self) -> str:
        """The title in letters, digits and hyphens."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower()))


def page(title: str, subtitle: str, parts: Iterable[Html | Section], data: Mapping[str, Any]) -> str:
    """Return the document.

    Args:
        title: The heading.
        subtitle: The line below it.
        parts: The content.
        data: The numbers that the pictures draw, see :mod:`jepa_runtime.reports.page_data`.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    body: list[str] = []
    entries: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Section):
            anchor = _unique(part.anchor, [known for known, _ in entries])
            entries.append((anchor, part.title))
            heading = f"<h2><a href='#{anchor}'>{escape(part.title)}</a></h2>"
            body.append(f"<section id='{anchor}'>{heading}{part.body}</section>")
        else:
            body.append(part)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>'
        "<meta name='viewport' content='width=device-width, initial-scale=1'/>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p class='subtitle'>{escape(subtitle)}</p>\n"
        + _contents(entries)
        + "\n".join(body)
        + f"\n{element(data)}\n</body></html>\n"
    )


def _contents(entries: Sequence[tuple[str, str]]) -> str:
    if len(entries) <= _MAX_WITHOUT_CONTENTS:
        return ""
    links = "".join(f"<li><a href='#{anchor}'>{escape(title)}</a></li>" for anchor, title in entries)
    return f"<nav aria-label='Contents'><ul>{links}</ul></nav>\n"


def _unique(anchor: str, known: Collection[str]) -> str:
    """Return an anchor that is neither known nor the id of the embedded data."""
    taken = {"data", *known}
    numbered = (f"{anchor}-{number}" for number in count(2))
    return next(name for name in chain([anchor], numbered) if name not in taken)


def section(title: str, *parts: str) -> Section:
    """Return a section with a heading."""
    return Section(title, join(parts))


def note(text: str) -> Html:
    """Return a remark in small print."""
    return Html(f"<p class='note'>{escape(text)}</p>")


def bullets(items: Iterable[str]) -> Html:
    """Return a bulleted list."""
    return Html(f"<ul>{join(Html(f'<li>{escape(item)}</li>') for item in items)}</ul>")


def card(label: str, value: str, remark: str = "", *, kind: str = "") -> Html:
    """Return a card with a key figure; ``kind`` is ``main``, ``alert`` or empty."""
    small = f"<small>{escape(remark)}</small>" if remark else ""
    return Html(f"<div class='card {kind}'><span>{escape(label)}</span><b>{escape(value)}</b>{small}</div>")


def block(kind: str, parts: Iterable[str]) -> Html:
    """Return parts side by side; ``kind`` is ``cards``, ``columns`` or ``readings``."""
    return Html(f"<div class='{kind}'>{join(parts)}</div>")


def figure(
    svg: Html,
    caption: str,
    *,
    title: str = "",
    legend: Sequence[str] = (),
    colors: Sequence[int] = (),
    wide: bool = False,
) -> Html:
    """Return a chart with its caption.

    Args:
        svg: The chart.
        caption: The text below it.
        title: The heading, or an empty string.
        legend: The names of the series.
        colors: The index of each series in ``palette.SERIES`` (default: by position).
        wide: Let the chart scroll on small screens.
    """
    heading = f"<b>{escape(title)}</b>" if title else ""
    entries = join(
        Html(f"<li><i class='s{color}'></i>{escape(name)}</li>")
        for name, color in zip(legend, colors or range(len(legend)), strict=True)
    )
    listed = f"<ul class='legend'>{entries}</ul>" if legend else ""
    return Html(
        f"<figure>{heading}<div class='scroll {'wide' if wide else ''}'>{svg}</div>{listed}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def numbers(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> Html:
    """Return a table of numbers; its first ``text_columns`` columns are text."""

    def row(cells: Sequence[str], tag: str) -> Html:
        kinds = [" class='text'" if column < text_columns else "" for column in range(len(cells))]
        filled = (f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return Html(f"<tr>{''.join(filled)}</tr>")

    body = join(row(cells, "td") for cells in rows)
    return Html(
        f"<div class='scroll'><table class='numbers'><thead>{row(head, 'th')}</thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(items: Mapping[str, str]) -> Html:
    """Return a table of names and values, or nothing if there are none."""
    if not items:
        return Html("")
    rows = join(
        Html(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>")
        for name, value in items.items()
    )
    return Html(f"<table class='facts'><tbody>{rows}</tbody></table>")


def words(name: str) -> str:
    """Return an identifier as words: ``straight_line`` as straight line."""
    return name.replace("_", " ")


def ms(value: float | None) -> str:
    """Format a time in ms with a suitable number of decimals; a dash stands for None."""
    if value is None:
        return "-"
    size = abs(value)
    return f"{value:,.{3 if size < 1 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def with_unit(value: float | None) -> str:
    """Format a time as :func:`ms` does, with the unit."""
    return "-" if value is None else f"{ms(value)} ms"
