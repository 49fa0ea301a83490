"""Text as the site needs it: sections of the README, notebooks and docstrings made into Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

FENCE = "`" * 3


def sections(markdown: str) -> dict[str, str]:
    """The text under each heading of the second level, by its title; what comes before the first under ""."""
    texts = re.split(r"^(?=## )", markdown, flags=re.M)
    titles = ["", *(text.partition("\n")[0].removeprefix("## ") for text in texts[1:])]
    return dict(zip(titles, texts, strict=True))


def links_to_files(markdown: str) -> list[str]:
    """Targets of links and pictures that are paths rather than addresses or anchors."""
    return [link for link in re.findall(r"\]\(([^)#\s]+)\)", markdown) if "://" not in link]


def from_notebook(text: str) -> str:
    """Markdown of a notebook as it was last run: its texts, its code, what the code printed and drew."""
    return "\n\n".join(
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else _code_cell(cell)
        for cell in json.loads(text)["cells"]
    )


def _code_cell(cell: dict) -> str:
    blocks = [f"{FENCE}python\n{''.join(cell['source'])}\n{FENCE}"]
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            png = "".join(data["image/png"]).replace("\n", "")
            blocks.append(f'<img alt="Plot made by the code above" src="data:image/png;base64,{png}">')
        else:
            blocks.append(f"{FENCE}text\n{''.join(data['text/plain']).rstrip()}\n{FENCE}")
    return "\n\n".join(blocks)


# ---- docstrings: Google sections around reStructuredText, as Python's help() and editors expect

# What is not prose, tried in this order: displayed formula, formula, reference, code.
_MARKS = re.compile(
    r"^(?P<indent>\ *)\.\.\ math::\ *(?P<display>.*(?:\n(?P=indent)\ +\S.*)*)"
    r"|:math:`(?P<math>[^`]+)`"
    r"|:(?:class|func|meth|attr|mod|exc):`(?P<target>[^`]+)`"
    r"|(?P<ticks>`+)(?P<code>[^`]+)(?P=ticks)",
    re.M | re.X,
)


def from_docstring(text: str, link: Callable[[str], str]) -> str:
    """Docstring whose prose is Markdown; the headers of its Google sections stay.

    Args:
        text: the docstring, without its indentation.
        link: gives the Markdown of a reference from its target (a name, or a dotted path).
    """
    # Examples are code to the parser of the sections, prose is all the rest.
    pieces = re.split(r"(^ *>>> .*(?:\n *\S.*)*)", text, flags=re.M)
    text = "".join(piece if i % 2 else _prose(piece, link) for i, piece in enumerate(pieces))
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.M)
    return re.sub(r"^Reference:( *\S.*(?:\n.+)*|(?:\n {4,}.*)+)", _references, text, flags=re.M)


def _references(match: re.Match[str]) -> str:
    """One item for each paper: its last words are the year, or the year in brackets, and a full stop."""
    text = " ".join(match[1].split())
    papers = re.split(r"(?<=\b\d{4}\.) |(?<=\b\d{4}\)\.) ", text)
    return "**Reference:**\n\n" + "\n".join(f"- {paper}" for paper in papers)


def _prose(text: str, link: Callable[[str], str]) -> str:
    out, end = [], 0
    for mark in _MARKS.finditer(text):
        out += [_escape(text[end : mark.start()]), _mark(mark, link)]
        end = mark.end()
    return "".join([*out, _escape(text[end:])])


def _mark(mark: re.Match[str], link: Callable[[str], str]) -> str:
    if mark["display"]:
        formula = " ".join(mark["display"].split())
        return f"{mark['indent']}$$\n{mark['indent']}{formula}\n{mark['indent']}$$"
    if mark["math"]:
        return f"${' '.join(mark['math'].split())}$"
    if mark["target"]:
        return link(mark["target"])
    return mark[0]


def _escape(text: str) -> str:
    """Characters that mean themselves in prose and something else in Markdown."""
    return re.sub(r"([*\[\]$])|<", lambda found: f"\\{found[1]}" if found[1] else "&lt;", text)
