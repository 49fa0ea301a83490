"""The place of a run on the disk: one process at a time, and no kill leaves what the next start cannot mend."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError
from pyro_dgm.experiment.run import CONFIG, DERIVED, LEDGER, METRICS, SOURCES
from pyro_dgm.training.checkpoint_files import CHECKPOINTS, saved
from pyro_dgm.training.lock import LOCK, OWNER, FolderLock

# An older run on its way aside, and all of it put aside; the names say which, should the process be killed.
_MOVING, _ASIDE = ".replacing", ".replaced"
_OURS = {CONFIG, METRICS, SOURCES, CHECKPOINTS, *DERIVED, "tensorboard"}

logger = logging.getLogger(__name__)


class Place:
    """Block that holds the folder of a run that begins or goes on.

    An older run that is replaced waits in ``.replaced`` until the new one begins. Until then an error, or the next
    start after a kill, puts it back; what a new run had written is then removed.

    Args:
        folder: where; made if need be, and removed again where nothing came of it.
        overwrite: whether an older run there may be replaced.
        resume: whether an older run there goes on; one that was killed before its first checkpoint starts afresh.

    Raises:
        InvalidInput: something is there already; with ``overwrite`` or ``resume``, something that is no run.
        IntegrityError: with ``resume``, a run that lacks its config or its checkpoints.
        ResourceError: another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.folder = folder
        self.goes_on = False
        self._overwrite, self._resume = overwrite, resume
        self._begun = False
        self._made: list[Path] = []
        self._stack = contextlib.ExitStack()
        if (folder / LOCK).is_file():  # said before the data are read; within the block it is held
            with FolderLock(folder):
                pass
        if not (folder / _ASIDE).exists() and not (folder / _MOVING).exists():
            self._check()

    def _entries(self) -> list[Path]:
        """What is there, but for the lock and what a killed process had not finished writing."""
        if not self.folder.is_dir():
            return [self.folder] if self.folder.exists() else []
        names = {LOCK, OWNER, _MOVING, _ASIDE}
        paths = sorted(self.folder.iterdir())
        return [path for path in paths if path.name not in names and not path.name.startswith(".partial-")]

    def _check(self) -> None:
        entries = self._entries()
        if not entries:
            return
        if not self._overwrite and not self._resume:
            cure = "--out with another name, --resume or --overwrite"
            raise InvalidInput("output exists", where="--out", value=self.folder, cure=cure)
        # A run that was killed at its very start has metrics and no config, or less.
        is_run = (self.folder / CONFIG).is_file() or (self.folder / METRICS).is_file()
        if not is_run and not {path.name for path in entries} <= _OURS:
            expected = "a run, which alone is resumed or overwritten"
            raise InvalidInput(
                "no run", where="--out", value=self.folder, expected=expected, cure="another name"
            )
        if self._resume:
            self._check_parts()

    def _check_parts(self) -> None:
        has_checkpoint = bool(saved(self.folder))
        lacking = [
            *([CONFIG] if has_checkpoint and not (self.folder / CONFIG).is_file() else []),
            *([CHECKPOINTS] if not has_checkpoint and (self.folder / LEDGER).is_file() else []),
        ]
        if lacking:
            raise IntegrityError(
                "part of a run is missing",
                where=str(self.folder),
                value=lacking[0],
                cure="to put it back, or --overwrite",
            )

    def __enter__(self) -> Place:
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove_made)
            with self._errors():
                self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FolderLock(self.folder))
            with self._errors():
                self._recover()
                self._check()
                if self._overwrite:
                    self._put_aside()
                elif self._resume:
                    self.goes_on = bool(saved(self.folder))
                    if not self.goes_on:
                        logger.info("nothing to resume in %s: a new run", self.folder)
                        self._clear()
            self._stack = stack.pop_all()
        return self

    def begin(self) -> None:
        """The run has begun, with its config written: what it replaces goes."""
        self._begun = True
        shutil.rmtree(self.folder / _ASIDE, ignore_errors=True)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidInput) and not saved(self.folder):
            self._begun = False  # data that the first steps refused: nothing was trained
        with self._stack:
            if not self._begun and not self.goes_on:
                self._clear()
                self._put_back()
                if self.folder in self._made:
                    (self.folder / LOCK).unlink(missing_ok=True)

    def _remove_made(self) -> None:
        if not self._begun:
            with contextlib.suppress(OSError):  # somebody put something there
                for path in self._made:
                    path.rmdir()

    def _put_aside(self) -> None:
        entries = self._entries()
        if entries:
            (self.folder / _MOVING).mkdir()
            for path in entries:
                path.rename(self.folder / _MOVING / path.name)
            (self.folder / _MOVING).rename(self.folder / _ASIDE)

    def _put_back(self) -> None:
        moving, aside = self.folder / _MOVING, self.folder / _ASIDE
        if aside.exists():
            aside.rename(moving)
        if moving.exists():
            for path in moving.iterdir():
                path.rename(self.folder / path.name)
            moving.rmdir()

    def _recover(self) -> None:
        """Mends what a process left that was killed while it replaced a run."""
        for path in self.folder.glob(".partial-*"):
            path.unlink()
        if (self.folder / _MOVING).exists():
            self._put_back()
        elif (self.folder / CONFIG).is_file():  # the new run had begun
            shutil.rmtree(self.folder / _ASIDE, ignore_errors=True)
        elif (self.folder / _ASIDE).exists():
            self._clear()
            self._put_back()

    def _clear(self) -> None:
        # The config first: without it the rest is nothing to go on from.
        for name in (CONFIG, *sorted(_OURS - {CONFIG})):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            value = f"{self.folder} ({error.strerror})"
            cure = "--out with a folder that can be written"
            raise ResourceError("cannot make the run", where="--out", value=value, cure=cure) from error
