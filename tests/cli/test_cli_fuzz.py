"""Thousands of broken configs and argument vectors: each ends soon, with a known exit code and at most one line."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from pyro_dgm.cli import main
from pyro_dgm.experiment import memory
from tests.cli.fuzz_arguments import vectors
from tests.cli.fuzz_configs import configs

SECONDS = 2.0
CODES = {0, 2, 3, 4, 5}
# Without the phase that explains a failure: it traces every line that runs, so that no seconds are true any more.
PHASES = (Phase.generate, Phase.shrink)
SETTINGS = settings(deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck))


def call(argv: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, out.getvalue(), err.getvalue()


def judge(argv: list[str], restore: Callable[[], None]) -> tuple[float, int]:
    """Runs a command line, twice if the first time was slow, and asserts what each must be.

    Seconds are those of the processor: others may use the machine too.
    """
    for _ in range(2):
        restore()
        start = time.process_time()
        code, out, err = call(argv)
        seconds = time.process_time() - start
        if seconds < SECONDS:
            break
    lines = [line for line in err.splitlines() if line and not line.startswith("warning: ")]
    allowed = CODES | ({1} if "--check" in argv and not lines else set())  # two files differ: no error
    assert code in allowed, (code, err)
    assert "Traceback" not in out + err
    if code in (0, 1):
        assert not any(line.startswith("error:") for line in lines), err
    else:
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert not out, out
    assert seconds < SECONDS, f"{seconds:.1f} s"
    return seconds, code


@pytest.fixture
def pretend_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to be in, on a machine with a quarter of a gigabyte and no network."""

    def no_network(*args: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(memory, "available", lambda: 2**28)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fuzz_configs(folder: Path, number: int, *, which: int) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    path = folder / "fuzz.yaml"

    @seed(which)
    @settings(SETTINGS, max_examples=number)
    @given(configs())
    def each(text: bytes) -> None:
        found.append(judge(["train", str(path), "--dry-run"], lambda: path.write_bytes(text) and None))

    each()
    assert [entry.name for entry in folder.iterdir()] == ["fuzz.yaml"]  # a dry run writes nothing
    return found


def fuzz_vectors(
    folder: Path, trained: Path, config: str, number: int, *, which: int
) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    path, run = folder / "tiny.yaml", folder / "run"

    def restore() -> None:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        path.write_text(config)
        shutil.copytree(trained, run)

    @seed(which)
    @settings(SETTINGS, max_examples=number)
    @given(vectors())
    def each(argv: list[str]) -> None:
        names = {"CONFIG": str(path), "RUN": str(run)}
        found.append(judge([names.get(word, word) for word in argv], restore))

    each()
    return found


def require_variety(found: list[tuple[float, int]]) -> None:
    """Some must pass and some must fail: else the mutations test nothing."""
    codes = [code for _, code in found]
    assert 0.05 <= codes.count(0) / len(codes) < 0.8
    assert statistics.median(seconds for seconds, _ in found) < SECONDS / 4


@pytest.mark.filterwarnings("default")
def test_broken_configs_end_in_one_line(pretend_machine: Path) -> None:
    require_variety(fuzz_configs(pretend_machine, 60, which=1))


@pytest.mark.filterwarnings("default")
def test_odd_arguments_end_in_one_line(pretend_machine: Path, trained: Path, tiny_text: str) -> None:
    require_variety(fuzz_vectors(pretend_machine, trained, tiny_text, 50, which=1))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_five_thousand_broken_configs_end_in_one_line(pretend_machine: Path) -> None:
    require_variety(fuzz_configs(pretend_machine, 5000, which=random.randrange(2**32)))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_thousand_odd_arguments_end_in_one_line(
    pretend_machine: Path, trained: Path, tiny_text: str
) -> None:
    require_variety(fuzz_vectors(pretend_machine, trained, tiny_text, 2000, which=random.randrange(2**32)))
