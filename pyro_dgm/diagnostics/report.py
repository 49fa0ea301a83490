"""A report as one HTML file: text, tables and pictures, nothing outside it and no script."""

from __future__ import annotations

import base64
import html
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pyro_dgm.atomic import write_text
from pyro_dgm.diagnostics.report_style import PAGE, STYLE
from pyro_dgm.errors import InvalidInput

_MARKS = {
    "good": ("✓", "trust:"),
    "bad": ("✗", "doubt:"),
    "unknown": ("?", "not known:"),
    "note": ("→", "try next:"),
}
_NUMBER = re.compile(
    r"[-+]?(\d[\d.,]*(e[-+]?\d+)? ?%?( (±|\+-) [\d.,]+(e[-+]?\d+)?)?|nan|inf)"
)  # also "-22.5 ± 0.2"
_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """Picture of a report.

    Args:
        path: a PNG file, which is read into the report.
        caption: the text below it.
        alt: what it shows, for who cannot see it; the caption if empty.
    """

    path: Path
    caption: str
    alt: str = ""


class Table(NamedTuple):
    """Table of a report.

    Args:
        header: names of the columns.
        rows: cells; numbers are aligned at the right and rounded to four digits.
        caption: the text above it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


class Finding(NamedTuple):
    """Line of a verdict.

    Args:
        kind: ``good``, ``bad``, ``unknown``, or ``note`` for what to try next.
        text: the finding, in words.
    """

    kind: Literal["good", "bad", "unknown", "note"]
    text: str


@dataclass(frozen=True)
class Section:
    """Part of a report with a heading.

    Args:
        title: its heading.
        text: paragraphs, with an empty line between them; a paragraph of lines that begin with ``- `` is a list.
        pictures: shown after the tables.
        tables: shown after the text.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def write_report(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    verdict: Sequence[Finding] = (),
    summary: str = "",
) -> None:
    """Report as one HTML file that needs no other: pictures are inside, there is no script and no link outwards.

    It has a light and a dark look, and fits on a telephone. The same input gives the same bytes.

    Args:
        path: the file to write; it is there whole or not at all.
        title: heading of the report.
        sections: its parts.
        verdict: findings, shown first.
        summary: text below the heading, as that of a section.

    Raises:
        InvalidInput: a finding of another kind, a table with rows of another length, or a picture that is no PNG.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "report.html"
        ...     table = Table(["split", "ELBO, nats"], [["test", -22.456]])
        ...     write_report(file, "A VAE", [Section("Bounds", "Higher is better.", tables=[table])])
        ...     ">-22.46</td>" in file.read_text(encoding="utf-8")
        True
    """
    anchors = _anchors([section.title for section in sections])
    contents = [
        f'<li><a href="#{a}">{_escaped(s.title)}</a></li>' for a, s in zip(anchors, sections, strict=True)
    ]
    parts = [f"<h1>{_escaped(title)}</h1>", *_paragraphs(summary)]
    if verdict:
        parts += [
            '<section class="verdict" aria-labelledby="verdict">',
            '<h2 id="verdict">Verdict</h2>',
            "<ul>",
        ]
        parts += [_finding(Finding(*finding)) for finding in verdict]
        parts += ["</ul>", "</section>"]
    if len(contents) > 1:
        parts += ['<nav aria-label="Contents">', "<ol>", *contents, "</ol>", "</nav>"]
    for anchor, section in zip(anchors, sections, strict=True):
        parts += [
            f'<section aria-labelledby="{anchor}">',
            f'<h2 id="{anchor}">{_escaped(section.title)}</h2>',
        ]
        parts += _paragraphs(section.text)
        parts += [_table(Table(*table), section.title) for table in section.tables]
        parts += [_picture(Picture(*picture)) for picture in section.pictures]
        parts.append("</section>")
    write_text(path, PAGE.format(title=_escaped(title), style=STYLE, body="\n".join(parts)))


def _escaped(text: object) -> str:
    return html.escape(str(text), quote=True)


def _anchors(titles: Iterable[str]) -> list[str]:
    """One identifier for each title, all different, and none that of the verdict."""
    taken, found = {"verdict"}, []
    for title in titles:
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        anchor, number = stem, 1
        while anchor in taken:
            number += 1
            anchor = f"{stem}-{number}"
        taken.add(anchor)
        found.append(anchor)
    return found


def _paragraphs(text: str) -> list[str]:
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines and all(line.startswith("- ") for line in lines):
            parts += ["<ul>", *(f"<li>{_escaped(line[2:])}</li>" for line in lines), "</ul>"]
        elif lines:
            parts.append(f"<p>{_escaped(' '.join(lines))}</p>")
    return parts


def _finding(finding: Finding) -> str:
    if finding.kind not in _MARKS:
        expected = " or ".join(map(repr, _MARKS))
        raise InvalidInput(
            "unknown kind of finding", where="verdict", value=repr(finding.kind), expected=expected
        )
    mark, word = _MARKS[finding.kind]
    said = f'<span class="mark" aria-hidden="true">{mark}</span> <strong>{word}</strong>'
    return f'<li class="{finding.kind}">{said} {_escaped(finding.text)}</li>'


def _table(table: Table, where: str) -> str:
    if any(len(row) != len(table.header) for row in table.rows):
        expected = f"{len(table.header)} cells in each row, one for each name in the header"
        raise InvalidInput("a table of uneven rows", where=f"section {where!r}", expected=expected)
    numeric = [
        all(_is_number(cell) or cell is None for cell in column) for column in zip(*table.rows, strict=True)
    ]
    classes = [' class="number"' if number else "" for number in numeric or [False] * len(table.header)]
    head = "".join(
        f'<th scope="col"{c}>{_escaped(name)}</th>' for c, name in zip(classes, table.header, strict=True)
    )
    caption = f"<caption>{_escaped(table.caption)}</caption>" if table.caption else ""
    rows = [
        "<tr>" + "".join(f"<td{c}>{_cell(cell)}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    ]
    body = "\n".join(rows)
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _is_number(cell: object) -> bool:
    if isinstance(cell, str):
        return _NUMBER.fullmatch(cell) is not None
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _cell(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if not isinstance(cell, numbers.Real):
        return _escaped(cell)
    if isinstance(cell, numbers.Integral):
        return f"{int(cell):,}"
    value = float(cell)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "NaN")
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _picture(picture: Picture) -> str:
    data = Path(picture.path).read_bytes()
    if not data.startswith(_PNG) or len(data) < 24:
        raise InvalidInput("no PNG", where=f"picture {str(picture.path)!r}", expected="a PNG file")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    alt = _escaped(picture.alt or picture.caption or Path(picture.path).stem)
    caption = f"<figcaption>{_escaped(picture.caption)}</figcaption>" if picture.caption else ""
    size = f'width="{width}" height="{height}"'
    return f'<figure><img src="{source}" alt="{alt}" {size} />{caption}</figure>'
