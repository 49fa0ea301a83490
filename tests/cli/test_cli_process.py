"""What needs a process of its own: a closed pipe, a terminal without letters, and how soon --help answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "pyro_dgm.cli"]


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    values = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, env=values, capture_output=True, check=False, timeout=100
    )


def test_a_reader_that_goes_away_brings_no_traceback() -> None:
    command = " ".join(COMMAND)
    result = run(f"{{ {command} train --help; echo code $? >&2; }} | true")
    assert b"Traceback" not in result.stderr and b"Exception" not in result.stderr
    assert b"code 141" in result.stderr or b"code 0" in result.stderr  # 0 where the pipe took it all


@pytest.mark.parametrize("arguments", ["'--help'", "'train', '--help'"])
def test_help_does_not_wait_for_torch(arguments: str) -> None:
    code = f"import sys; from pyro_dgm.cli import main; main([{arguments}]); sys.exit('torch' in sys.modules)"
    result = run(f'{sys.executable} -c "{code}"')
    assert result.returncode == 0 and b"usage" in result.stdout


@pytest.mark.parametrize("redirection", ["", ">&- 2>&-"])
def test_an_error_needs_neither_letters_nor_streams(redirection: str) -> None:
    result = run(
        f"{' '.join(COMMAND)} sample né --é {redirection}", LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii"
    )
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr and result.stdout == b""
    assert "2>" in redirection or result.stderr.startswith(b"error: unrecognized arguments: --")
