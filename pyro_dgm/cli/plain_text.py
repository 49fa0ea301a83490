"""Docstrings as a terminal shows them: without markup, and with formulas in the letters of mathematics."""

from __future__ import annotations

import re
import textwrap

WIDTH = 100

_LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "theta": "θ", "lambda": "λ",
    "mu": "μ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "psi": "ψ", "omega": "ω", "Sigma": "Σ",
    "sum": "Σ", "prod": "Π", "int": "∫", "nabla": "∇", "infty": "∞", "partial": "∂", "sqrt": "√", "mid": "|",
    "sim": "~", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "neq": "≠", "approx": "≈", "cdot": "·", "times": "×",
    "in": "∈", "to": "→", "rightarrow": "→", "leftarrow": "←", "quad": "  ", "qquad": "   ", "ldots": "...",
    "dots": "...", "circ": "∘", "odot": "⊙", "mapsto": "↦", "lfloor": "⌊", "rfloor": "⌋", "top": "T",
    "|": "||", ",": "", ";": " ", ":": " ", "!": "", "\\": "\n", "{": "{", "}": "}",
}  # fmt: skip
_SILENT = (
    "mathcal|mathbb|mathrm|mathbf|text|textbf|operatorname|left|right|big|Big|bigl|bigr|bar|hat|tilde|rm"
)


def formula(latex: str) -> str:
    r"""LaTeX in plain letters; what is not known is left without its backslash.

    Args:
        latex: a formula as docstrings have them.

    Example:
        >>> formula(r"z \\sim \\mathcal N(0, I), \\quad \\log \\frac1K \\sum_k p(x \\mid z_k)".replace("\\\\", "\\"))
        'z ~ N(0, I), log 1/K Σ_k p(x | z_k)'
    """
    text = re.sub(rf"\\(?:{_SILENT})(?![A-Za-z])\s*", "", latex)
    text = re.sub(r"\\frac\s*(\w)\s*(\w)(?!\w)", r"\1/\2", text)
    for _ in range(4):  # fractions in fractions
        text = re.sub(
            r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"(\1)/(\2)", text
        )
    text = re.sub(r"\\([A-Za-z]+|[^A-Za-z])", lambda found: _LETTERS.get(found[1], found[1]), text)
    text = re.sub(r"\{(\w+)\}|(?<![_^])\{([^{}]*)\}", lambda found: found[1] or found[2], text)
    text = re.sub(r"(?<![\w)])\((\w+)\)/\((\w+)\)", r"\1/\2", text)
    return " ".join(text.replace("&", "").replace("Σ (", "Σ(").split())


def plain(text: str) -> str:
    """Paragraphs of a docstring without its markup, wrapped; formulas stand by themselves.

    Args:
        text: reStructuredText as in a docstring, without indentation.
    """
    text = re.sub(r"^\.\. _[^\n]*(?:\n[ \t]+[^\n]*)*", "", text, flags=re.MULTILINE)  # the targets of links
    text = re.sub(r"^\.\. (?:note|image|warning|seealso)::[^\n]*(?:\n[ \t]+[^\n]*|\n(?=\n[ \t]))*", "", text,
                  flags=re.MULTILINE | re.IGNORECASE)  # fmt: skip
    pieces = re.split(r"^(\.\. math::[^\n]*(?:\n[ \t]+[^\n]*|\n(?=\n[ \t]))*)", text, flags=re.MULTILINE)
    paragraphs = []
    for piece in pieces:
        if piece.startswith(".. math::"):
            written = formula(piece.removeprefix(".. math::"))
            if len(written) < 3 * WIDTH:  # torch prints whole algorithms
                paragraphs.append(wrap(written, indent=4))
        else:
            paragraphs += [
                wrap(inline(part), indent=0) for part in re.split(r"\n\s*\n|\n(?=- )", piece) if part.strip()
            ]
    return "\n\n".join(paragraphs)


def inline(text: str) -> str:
    """Text of a paragraph without its markup, in one line."""
    text = re.sub(r":math:`([^`]*)`", lambda found: formula(found[1]), text)
    text = re.sub(r":\w+:`~?([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", text)
    return " ".join(re.sub(r"``?([^`]*?)(?:\s*<[^`>]*>)?``?_*", r"\1", text).replace("**", "").split())


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, in one line.

    Example:
        >>> first_sentence("Bound, e.g. of a model. More of it.")
        'Bound, e.g. of a model.'
    """
    paragraph = inline(re.split(r"\n\s*\n|\n\.\. ", text.strip())[0])
    return re.split(r"(?<=[^.\s]{2}\.)\s+(?=[A-Z`])", paragraph)[0]


def wrap(text: str, *, indent: int, hang: int = 0) -> str:
    """Lines of at most WIDTH columns.

    Args:
        text: one paragraph.
        indent: columns on the left.
        hang: further columns from the second line on.
    """
    space = " " * indent
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=space,
        subsequent_indent=space + " " * hang,
        break_on_hyphens=False,
        break_long_words=False,
    )
