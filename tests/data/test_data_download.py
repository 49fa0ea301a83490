"""The downloader, against a server on loopback: originals, a tampered one, a broken one, none."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import hashlib
import io
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from pyro_dgm.data import MNIST, BinarizedMNIST, originals
from pyro_dgm.data.download import Original
from pyro_dgm.data.formats import read_digits, read_idx
from pyro_dgm.errors import Fault, IntegrityError, InvalidInput, ResourceError

# pooch leaves the socket of a failed transfer to the garbage collector, which warns of it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TRAIN, TEST = 10_030, 20  # the last 10,000 validate, so 30 are left to train on


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def packed(content: bytes) -> bytes:
    """Gzip whose stored file name points out of any folder."""
    buffer = io.BytesIO()
    with gzip.GzipFile("../../evil", "wb", compresslevel=1, fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    return buffer.getvalue()


def images(count: int) -> np.ndarray:
    """Image i is grey level i mod 256 all over."""
    return np.repeat(np.arange(count, dtype=np.uint8), 784).reshape(count, 28, 28)


class Site:
    """Files at a loopback address; `files` may be changed between requests."""

    def __init__(self) -> None:
        contents = [
            idx(images(TRAIN)),
            idx((np.arange(TRAIN) % 10).astype(np.uint8)),
            idx(images(TEST)),
            idx((np.arange(TEST) % 10).astype(np.uint8)),
        ]
        names = [file.name for file in originals.MNIST_FILES]
        self.unpacked = dict(zip(names, contents, strict=True))
        self.files = {name: packed(content) for name, content in self.unpacked.items()}
        self.requests: list[str] = []
        self.claim = 0  # bytes promised beyond those sent

    def known(self, file: Original) -> Original:
        sha256 = hashlib.sha256(self.files[file.name]).hexdigest()
        content = hashlib.sha256(self.unpacked[file.name]).hexdigest()
        return dataclasses.replace(file, sha256=sha256, content_sha256=content)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, *args: object, site: Site) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.site.requests.append(name)
        if name not in self.site.files:
            self.send_error(404)
            return
        body = self.site.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + self.site.claim))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYRO_DGM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made() -> Site:
    return Site()


@pytest.fixture
def site(made: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, str]]:
    site = Site.__new__(Site)
    site.unpacked, site.files, site.requests, site.claim = made.unpacked, dict(made.files), [], 0
    monkeypatch.setattr(originals, "MNIST_FILES", tuple(site.known(file) for file in originals.MNIST_FILES))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=site))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield site, f"http://127.0.0.1:{server.server_port}/files"
    server.shutdown()
    server.server_close()
    thread.join()
    gc.collect()  # here, where the warning is expected, and not in another test


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_originals_are_downloaded_once_and_split_as_stated(
    site: tuple[Site, str], cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server, url = site
    data = MNIST(labels=True, mirror=url)
    assert [len(part) for part in (data.train, data.val, data.test)] == [30, 10_000, 20]
    assert data.data_shape == (1, 28, 28) and data.levels == 256
    for part, start in ((data.train, 0), (data.val, 30), (data.test, 0)):
        number = torch.arange(start, start + len(part))
        assert torch.equal(
            (part.x * 255).round(), (number % 256).float().reshape(-1, 1, 1, 1).expand_as(part.x)
        )
        assert part.y is not None and torch.equal(part.y, number % 10)
    assert "%" in capfd.readouterr().err  # a progress bar
    assert len(server.requests) == 4
    assert held(cache.parent) == sorted(server.files)  # no temporary file, and none where the archive says
    MNIST(mirror=url)
    assert len(server.requests) == 4


def test_labels_are_not_fetched_unless_asked_for(site: tuple[Site, str], cache: Path) -> None:
    MNIST(mirror=site[1])
    assert not any("labels" in name for name in site[0].requests)


def test_a_tampered_file_is_removed_and_never_unpacked(
    site: tuple[Site, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = site
    first = originals.MNIST_FILES[0]
    good = server.files[first.name]
    bad = packed(server.unpacked[first.name][:-1] + b"\x01")
    server.files[first.name] = bad
    with monkeypatch.context() as patch:
        patch.setattr(gzip, "decompress", lambda content: pytest.fail("unpacked before the check"))
        with pytest.raises(IntegrityError) as error:
            MNIST(mirror=url)
    assert f"sha256 {hashlib.sha256(bad).hexdigest()}; expected sha256 {first.sha256}" in str(error.value)
    assert error.value.exit_code == 3 and held(cache.parent) == []
    server.files[first.name] = good
    assert len(MNIST(mirror=url).train) == 30


def test_a_damaged_cache_is_fetched_again(site: tuple[Site, str], cache: Path) -> None:
    server, url = site
    MNIST(mirror=url)
    (path,) = cache.rglob("t10k-images*")
    path.write_bytes(path.read_bytes()[:-9])
    assert len(MNIST(mirror=url).test) == 20
    assert server.requests.count("t10k-images-idx3-ubyte.gz") == 2


def test_a_broken_transfer_leaves_nothing(site: tuple[Site, str], cache: Path) -> None:
    site[0].claim = 1000
    with pytest.raises(Fault) as error:
        MNIST(mirror=site[1])
    assert error.value.exit_code in (3, 5) and held(cache.parent) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/none", "missing"])
def test_no_network_or_no_file_is_one_line_that_names_the_cure(
    site: tuple[Site, str], cache: Path, address: str
) -> None:
    site[0].files.clear()
    with pytest.raises(ResourceError) as error:
        MNIST(mirror=site[1] if address == "missing" else address)
    assert "PYRO_DGM_DATA=FOLDER" in str(error.value) and "train-images-idx3-ubyte.gz" in str(error.value)
    assert "\n" not in str(error.value) and held(cache.parent) == []


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_a_folder_of_originals_serves_without_a_network(
    site: tuple[Site, str], cache: Path, monkeypatch: pytest.MonkeyPatch, *, folder: str, unpacked: bool
) -> None:
    server, url = site
    home = cache.parent / "my originals \u00e9" / folder
    home.mkdir(parents=True)
    for name, content in (server.unpacked if unpacked else server.files).items():
        (home / (name.removesuffix(".gz") if unpacked else name)).write_bytes(content)
    monkeypatch.setenv("PYRO_DGM_DATA", str(cache.parent / "my originals \u00e9"))
    assert len(MNIST(labels=True, mirror=url).train) == 30
    assert server.requests == []


def test_a_users_own_wrong_file_is_named_and_left_alone(
    site: tuple[Site, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = cache.parent / "originals"
    home.mkdir()
    path = home / "train-images-idx3-ubyte"
    path.write_bytes(b"something else")
    monkeypatch.setenv("PYRO_DGM_DATA", str(home))
    with pytest.raises(IntegrityError, match="train-images-idx3-ubyte: sha256") as error:
        MNIST(mirror=site[1])
    assert str(originals.MNIST_FILES[0].content_sha256) in str(error.value)
    assert path.read_bytes() == b"something else" and site[0].requests == []


def test_a_file_the_folder_lacks_is_downloaded(
    site: tuple[Site, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache.parent / "originals").mkdir()
    monkeypatch.setenv("PYRO_DGM_DATA", str(cache.parent / "originals"))
    assert len(MNIST(mirror=site[1]).train) == 30


def test_a_folder_that_does_not_exist_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_DGM_DATA", str(cache / "nowhere"))
    with pytest.raises(InvalidInput, match="PYRO_DGM_DATA"):
        MNIST()


def test_the_text_files_of_binarised_mnist_are_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bits = np.random.default_rng(0).integers(0, 2, size=(3, 4, 784))
    files = []
    for file, part in zip(originals.BINARIZED_MNIST_FILES, bits, strict=True):
        text = io.BytesIO()
        np.savetxt(text, part, fmt="%d")  # the layout of the published files
        (tmp_path / file.name).write_bytes(text.getvalue())
        files.append(dataclasses.replace(file, sha256=hashlib.sha256(text.getvalue()).hexdigest()))
    monkeypatch.setattr(originals, "BINARIZED_MNIST_FILES", tuple(files))
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path))
    data = BinarizedMNIST(index=True)
    for split, part in zip((data.train, data.val, data.test), bits, strict=True):
        assert np.array_equal(split.x.numpy().reshape(4, 784), part)
    assert data.train.fields == ("x", "index") and data.levels == 2 and data.num_classes is None


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\1\0\0\0\1\0", b"\0\0\x08\3\0", idx(images(2))[:-1]])
def test_other_bytes_are_no_idx(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_idx(content, name="file")


@pytest.mark.parametrize("content", [b"", b"0 1\n0", b"0 2\n", b"0,1\n", b"0 1 ", b"0 \n1 \n"])
def test_other_bytes_are_no_rows_of_bits(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_digits(content, columns=2, name="file")
