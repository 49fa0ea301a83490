"""A user's own Python files beside a config: found, recorded with the run, and run again only if unchanged."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyro_dgm.errors import IntegrityError
from pyro_dgm.experiment.class_names import TRUSTED


@contextmanager
def importable(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Block in which modules of a folder can be imported.

    A module of the same name from elsewhere (the file of another config in this process) is forgotten first.

    Args:
        folder: what goes to the front of the import path.
        names: dotted names that will be imported.
    """
    folder = folder.resolve()
    for root in {name.partition(".")[0] for name in names} - set(TRUSTED):
        here = [path for path in (folder / f"{root}.py", folder / root / "__init__.py") if path.is_file()]
        known = getattr(sys.modules.get(root), "__file__", None)
        if here and known and Path(known).resolve() != here[0]:
            for module in [name for name in sys.modules if name.partition(".")[0] == root]:
                del sys.modules[module]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def used_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of a folder that was imported from it, by relative path."""
    folder = folder.resolve()
    found = {}
    main = sys.modules.get("__main__")  # it has other names too: that of multiprocessing, for one
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        inside = path.suffix == ".py" and path.is_relative_to(folder) and "site-packages" not in path.parts
        if inside and name.partition(".")[0] not in TRUSTED and module is not main:
            found[path.relative_to(folder).as_posix()] = _sha256(path)
    return dict(sorted(found.items()))


def keep_files(files: Iterable[str], *, source: Path, target: Path) -> None:
    """Copies files into the run, so that it can be rebuilt after the originals have changed."""
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)


def changed_files(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Those files that are not there with their recorded hash.

    Args:
        files: sha256 by relative path.
        folder: what the paths are relative to.
    """
    paths = {folder / file: expected for file, expected in files.items()}
    return [path for path, expected in paths.items() if not path.is_file() or _sha256(path) != expected]


def check_files(files: Mapping[str, str], folder: Path) -> None:
    """Compares files with their recorded hashes.

    Raises:
        IntegrityError: a file is missing or has changed.
    """
    for path in changed_files(files, folder)[:1]:
        found = _sha256(path) if path.is_file() else "no such file"
        expected = files[path.relative_to(folder).as_posix()]
        cure = "the file as it was when the run was trained"
        raise IntegrityError("another file", where=str(path), value=found, expected=expected, cure=cure)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
