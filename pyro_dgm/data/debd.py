"""Ten sets of binary data on which density estimators are compared."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from pyro_dgm.data.download import Original, read_original
from pyro_dgm.data.formats import read_digits
from pyro_dgm.data.preprocessing import PARTS, Preparation
from pyro_dgm.data.splits import Dataset
from pyro_dgm.errors import InvalidInput

DEBDName = Literal[
    "nltcs",
    "plants",
    "baudio",
    "jester",
    "bnetflix",
    "accidents",
    "mushrooms",
    "dna",
    "nips",
    "pumsb_star",
]

_URL = (
    "https://raw.githubusercontent.com/arranger1044/DEBD/850908666388f1b1c766a304b37dae14613f1e51/datasets/"
)
_COLUMNS = {
    "nltcs": 16,
    "plants": 69,
    "baudio": 100,
    "jester": 100,
    "bnetflix": 100,
    "accidents": 111,
    "mushrooms": 112,
    "dna": 180,
    "nips": 500,
    "pumsb_star": 163,
}
# Of the files of training, validation and test data.
_SHA256 = {
    "nltcs": (
        "e547a7aedad1dd2f7177030881ab1b92c7e24ae5464c71a0f1f89daecaf52b30",
        "93bbbf5c6febdc9bc6e5b5bfab636f4dc0685ab2896d24b23dd267794c3bfcf6",
        "f9ffa6b74b27dc03bee3203d157ee31079e80b13be40d0c0093d635c25aed523",
    ),
    "plants": (
        "1fb1219ff94068d12a563f9e81f8889a1885f41e867884cff608669300c6848f",
        "47834ed318b2d74f48e4b083226ef47fd446d41986012ceae19d230574821b34",
        "95f53c033cd1d86467aec2610dc5bfe014534206c2da4919f73bcab246ab8755",
    ),
    "baudio": (
        "b1ec73f4aa9d4ce48b465ded865cc3d22b3f68cf6258f9e15fbef8902138add1",
        "7164d8a4943f74953f0e982002d84693fdf483e17f69e7407dc939c5ce5622fe",
        "1474f3206f1f35e099803a0f40b0cd209bdc8d787825095ef6cb23fd87ed0d05",
    ),
    "jester": (
        "dd93578c3359d5b234bb278bf0901c5215d83b910f7d51d7c91951a0a4c244cd",
        "91df833941e189265345898d3f63211560c2456df599f34beee8e95381ee7524",
        "346044fb561cf18f284f7e9d5896178b03048991b6ebb6f7482885fccbc16082",
    ),
    "bnetflix": (
        "73c87cf0635ec734cc0726a5c644b904ff33e81ea51f1049db0e77b787ebad7c",
        "7f0a3e597c6f305f707f9ecd2b2aa523c576cdb17fdc5d902fc832ebea5163de",
        "af73990782fd2f146d96059855c4f3bbb6a7a7caefc417ff620a3ed1415a2395",
    ),
    "accidents": (
        "a76648cf00772c275b4277b21d858e235e3c6d3c5ef30beeb4958189b6bed21c",
        "fd3a80a0f411f157cf3772a057d26980bb166cb89b10cafb818a53f1ec30d46d",
        "df3f1b6c035bf3e306a7d7127320e479d2546ce14a5d6d3043e6be0925b8b414",
    ),
    "mushrooms": (
        "465c712c066bbbee3ccceded24bbe42b4c379df67b524e28cce9bf3a8b83f27b",
        "5a067e6854df71623415e6adc8e913cbff766637a324788882ba800907aa5385",
        "313c5f04b5d0a18bee2f2ffa264be265d09f5362aad6f714637acd9552f81aa0",
    ),
    "dna": (
        "bb8de0ca4b6ad9b610036b7a302962ebecd4b504354b14c02c7d0bee48d207d9",
        "4b0fc89cda5eaf5c75926e281afb6af99de194a546070d5b81b524ba251f4f3f",
        "fec3ae7b26804020a9c43c99828441c5e08bb76b23719368a74ad2b09af99100",
    ),
    "nips": (
        "4d744cb1f2c725405bff6ef6878df06eafbbc2a91f0510e0f3d8a508b05ec7bb",
        "b06acd8e6a701d63d4e58b5076c11c59bcd0343fb9b1fbb5997459d3e6b8ca96",
        "48711bdaffbd43aa439679785e19d9cc80c64a157fa84eadc5dce60ee4edf7bc",
    ),
    "pumsb_star": (
        "27e610b5f9f507f94ebf8a227f8b96cc59d7eed51e06ee5d2fe8353afbc1524c",
        "6a491d1ea64eb0249dddd168fdddeef88aa21001a933eb7309603b6466187af8",
        "b2da195314ac17f9d8d171743c5f98a28ea9583332a52d34aa228ff2e11aa8e7",
    ),
}


class DEBD(Dataset):
    """One of ten sets of binary data of the density estimation benchmark; downloaded on first use (up to 12 MB).

    Rows of 16 to 500 binary variables: answers of a survey of the disabled (nltcs), habitats of plants, which songs,
    jokes and films people like (baudio, jester, bnetflix), traffic accidents, a census (pumsb_star), mushrooms, DNA
    and words of papers (nips). Split: the published files.

    Args:
        name: of the set.
        index: whether batches carry the number of each datum in its part.
        mirror: another address to download the three files from.

    Raises:
        InvalidInput: no such set, or `PYRO_DGM_DATA` names no folder.
        IntegrityError: a file is not the published one.
        ResourceError: no network, and no copy.

    Example:
        >>> data = DEBD("dna")  # doctest: +SKIP
        >>> data.data_shape, len(data.train), len(data.val), len(data.test)  # doctest: +SKIP
        ((180,), 1600, 400, 1186)

    Reference:
        Lowd, Davis: Learning Markov network structure with decision trees (2010); Van Haaren, Davis: Markov network
        structure learning: a randomized feature generation approach (2012); Larochelle, Murray: The neural
        autoregressive distribution estimator (2011), for mushrooms, dna and nips.
    """

    def __init__(self, name: DEBDName, *, index: bool = False, mirror: str | None = None) -> None:
        if name not in get_args(DEBDName):
            names = ", ".join(get_args(DEBDName))
            raise InvalidInput("unknown data set", where="name", value=name, expected=f"one of {names}")
        url = _URL if mirror is None else mirror.rstrip("/") + "/"
        files = [
            Original(f"{name}.{part}.data", f"{url}{name}/", (f"debd/{name}", f"datasets/{name}"), sha256)
            for part, sha256 in zip(("train", "valid", "test"), _SHA256[name], strict=True)
        ]
        rows = [
            read_digits(read_original(file), columns=_COLUMNS[name], separator=",", name=file.name)
            for file in files
        ]
        xs = [torch.from_numpy(part).float() for part in rows]
        preparation = Preparation(2)
        hashes = ", ".join(f"{file.name} {file.sha256[:16]}" for file in files)
        super().__init__(
            f"DEBD {name}",
            preparation.splits(xs, index=index),
            preprocessing=preparation.describe(
                xs,
                source=f"{files[0].url}, sha256 {hashes}",
                rule=f"the published files of {', '.join(PARTS)}",
            ),
            levels=preparation.seen_levels,
        )
