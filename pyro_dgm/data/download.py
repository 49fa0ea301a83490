"""Published files brought here once: found in a folder or downloaded, and checked by sha256 before any use."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError

FOLDER_VARIABLE = "PYRO_DGM_DATA"


@dataclass(frozen=True)
class Original:
    """A published file and what its bytes must be.

    Args:
        name: the file's name as published; a name in .gz is unpacked after the check.
        url: the address that ends in "/" and to which the name is added.
        folders: subfolders of `PYRO_DGM_DATA` in which to look, before that folder itself; the first is also the
            file's folder in the cache.
        sha256: of the published file.
        content_sha256: of the same file unpacked; None where it is published unpacked.
    """

    name: str
    url: str
    folders: tuple[str, ...]
    sha256: str
    content_sha256: str | None = None

    def forms(self) -> list[tuple[str, str]]:
        """The names under which a copy may be kept, each with the sha256 it must have."""
        unpacked = (
            [] if self.content_sha256 is None else [(self.name.removesuffix(".gz"), self.content_sha256)]
        )
        return [(self.name, self.sha256), *unpacked]


def read_original(original: Original, *, mirror: str | None = None) -> bytes:
    """The unpacked content of a published file, whose sha256 has been checked.

    Looked for in this order: the folder that the environment variable `PYRO_DGM_DATA` names (its subfolders
    `original.folders`, then itself; packed or unpacked), the cache (`pooch.os_cache("pyro_dgm")`), the network.
    A download goes to a temporary name, is checked, and only then takes its place; a file that fails is removed.
    A user's own file that fails is named and left alone. Nothing is unpacked before its check, and unpacking
    writes no file: names inside an archive are never used.

    Args:
        original: the file.
        mirror: another address to download it from, under the same name.

    Raises:
        IntegrityError: a file has another sha256 than the published one.
        ResourceError: the file can neither be found nor downloaded, or not be read.
        InvalidInput: `PYRO_DGM_DATA` names no folder.
    """
    try:
        path, content = _local(original) or _downloaded(original, mirror=mirror)
    except OSError as problem:  # requests' errors are OSErrors too
        raise ResourceError(
            "no original file",
            where=f"{mirror or original.url}",
            value=f"{original.name}, {type(problem).__name__}",
            expected="a network, or a copy of the file",
            cure=f"{FOLDER_VARIABLE}=FOLDER, a folder that holds {original.name}",
        ) from problem
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _local(original: Original) -> tuple[Path, bytes] | None:
    """A copy in the folder of downloaded originals, if there is one."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    if not Path(root).is_dir():
        raise InvalidInput(
            "no such folder", where=FOLDER_VARIABLE, value=root, expected="a folder of originals"
        )
    wrong: list[tuple[Path, str, str]] = []
    for folder in (*original.folders, "."):
        for name, expected in original.forms():
            path = Path(root, folder, name)
            if path.is_file():
                content = path.read_bytes()
                found = hashlib.sha256(content).hexdigest()
                if found == expected:
                    return path, content
                wrong.append((path, found, expected))  # MNIST and Fashion-MNIST share names: look on
    if wrong:
        path, found, expected = wrong[0]
        raise IntegrityError(
            "not the published file",
            where=str(path),
            value=f"sha256 {found}",
            expected=f"sha256 {expected}",
            cure="downloading it again, or unpacking it if it was packed anew",
        )
    return None


def _downloaded(original: Original, *, mirror: str | None) -> tuple[Path, bytes]:
    """The copy in the cache, downloaded if it is not there or damaged."""
    url = original.url if mirror is None else mirror.rstrip("/") + "/"
    path = pooch.retrieve(
        url + original.name,
        known_hash=f"sha256:{original.sha256}",
        fname=original.name,
        path=pooch.os_cache("pyro_dgm") / original.folders[0],
        downloader=_Checked(original.sha256),
    )
    return Path(path), Path(path).read_bytes()


class _Checked:
    """A downloader with a progress bar whose file never outlives a wrong sha256: pooch removes it on an error."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def __call__(self, url: str, output_file: str, manager: object) -> None:
        pooch.HTTPDownloader(progressbar=True)(url, output_file, manager)
        found = pooch.file_hash(output_file, alg="sha256")
        if found != self.sha256:
            raise IntegrityError(
                "download is not the published file",
                where=url,
                value=f"sha256 {found}",
                expected=f"sha256 {self.sha256}",
                cure=f"again, or {FOLDER_VARIABLE}=FOLDER with a good copy; the download was removed",
            )
