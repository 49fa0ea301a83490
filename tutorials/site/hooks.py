"""Pages of the site that are made of other files of the repository, so that nothing is written twice."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from markup import from_notebook, links_to_files, sections
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
PACKAGE = "pyro_dgm"


def parts() -> dict[str, list[str]]:
    """Public names of each part of the package: of each module that the package's ``__all__`` leads to."""
    package = griffe.load(PACKAGE, search_paths=[ROOT])
    members = [package[name] for name in package.exports]
    paths = [(member.target_path if member.is_alias else member.path).split(".")[1] for member in members]
    return {part: _public(package[part]) for part in sorted(set(paths))}


def _public(module: griffe.Module) -> list[str]:
    """What a module exports, or else the classes and functions that it defines under a public name."""
    own = [member for member in module.members.values() if not member.is_alias and not member.is_attribute]
    return list(module.exports or [member.name for member in own if not member.name.startswith("_")])


PARTS = parts()


def api_page(part: str) -> str:
    """Page of one part: what it says of itself, then each public name."""
    path = f"{PACKAGE}.{part}"
    own = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
    blocks = [f"---\ntitle: {part}\n---", f"# `{path}`", f"::: {path}\n    options: {own}"]
    return "\n\n".join(blocks + [f"::: {path}.{name}" for name in PARTS[part]])


def on_config(config: MkDocsConfig) -> None:
    folders = {
        "tutorials/": [f"tutorials/{path.stem}.md" for path in NOTEBOOKS],
        "api/": [f"api/{part}.md" for part in PARTS],
    }
    config.nav = [
        {title: folders.get(page, page) for title, page in entry.items()} for entry in config.nav or []
    ]
    config.watch += [str(ROOT / "README.md"), str(ROOT / PACKAGE)]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for part in PARTS:
        files.append(File.generated(config, f"api/{part}.md", content=api_page(part)))
    for path in NOTEBOOKS:
        text = from_notebook(path.read_text(encoding="utf-8"))
        title, _, rest = text.partition("\n")
        note = f"This page is the notebook [{path.name}]({path.name}) as it was last run."
        text = f"{title}\n\n{note}\n\n{rest}"
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        files.append(File.generated(config, f"tutorials/{path.name}", abs_src_path=str(path)))
    for link in sorted(set(links_to_files(README)) - set(files.src_uris)):
        files.append(File.generated(config, link, abs_src_path=str(ROOT / link)))


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts a section of the README where a page has ``<!-- README: title -->``; its links stay as they are.

    After ``# `` the section is the page: its heading becomes the page's.
    """
    mark = re.compile(r"^(# )?<!-- README: ?(.*?) ?-->$", re.M)
    text = mark.sub(lambda found: sections(README)[found[2]].removeprefix("#" if found[1] else ""), markdown)
    return re.sub(r"\]\((tutorials/\w+)\.ipynb\)", r"](\1.md)", text)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Formulas as MathML, which browsers show without scripts or network."""
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', _mathml("inline"), content, flags=re.S)
    return re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', _mathml("block"), content, flags=re.S)


def _mathml(display: str) -> Callable[[re.Match[str]], str]:
    def formula(match: re.Match[str]) -> str:
        latex = html.unescape(match[1]).strip()
        # The converter wants \mathcal{N} for \mathcal N, sets log p as one word, makes \sim a letter, and writes a
        # command that it does not know as it stands.
        latex = re.sub(r"\\(math\w+)\s+(\w)", r"\\\1{\2}", latex)
        latex = re.sub(r"\\log\b(?! *\()", r"\\log\\,", latex)
        mathml = convert(latex, display=display).replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")
        if "<mi>\\" in mathml:
            raise PluginError(f"unknown command in the formula {latex}")
        return mathml

    return formula
