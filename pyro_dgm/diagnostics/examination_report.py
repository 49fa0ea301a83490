"""Sections of a report on an examination: numbers, pictures, and what they mean."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pyro_dgm.diagnostics.advice import Advice, advise
from pyro_dgm.diagnostics.examination import Examination
from pyro_dgm.diagnostics.examination_sections import examination_sections
from pyro_dgm.diagnostics.report import Finding, write_report


def findings(advice: Advice) -> list[Finding]:
    """Advice as the lines of a verdict.

    Args:
        advice: of :func:`~pyro_dgm.diagnostics.advice.advise`.
    """
    return [
        *(Finding("bad", text) for text in advice.doubtful),
        *(Finding("good", text) for text in advice.trustworthy),
        *(Finding("note", text) for text in advice.next_steps),
        *(Finding("unknown", text) for text in advice.limits),
    ]


def report_examination(found: Examination, path: Path, *, title: str = "Diagnosis") -> None:
    """Report on an examination as one HTML file that needs no other.

    Args:
        found: of :func:`~pyro_dgm.diagnostics.examination.examine`.
        path: the file; its pictures are inside.
        title: its heading.

    Raises:
        OSError: the file cannot be written; an old one of that name is then as it was.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics.examination import examine
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> found = examine(ppca.model, ppca.guide, ppca.model(n=50).detach(), num_samples=100, num_nuts=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report_examination(found, Path(folder) / "report.html")
        ...     [file.name for file in Path(folder).iterdir()]
        ['report.html']
    """
    with tempfile.TemporaryDirectory() as folder:
        sections = examination_sections(found, Path(folder))
        write_report(Path(path), title, sections, verdict=findings(advise(found)))
