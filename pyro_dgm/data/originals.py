"""Where each published data set lies, and the sha256 of each of its files."""

from __future__ import annotations

from pyro_dgm.data.download import Original

# Training images and labels, test images and labels. The hashes of packed and unpacked files are both given, so
# that a folder of unpacked files serves as well.
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_FOLDERS = ("mnist", "MNIST/raw", "MNIST")
MNIST_FILES = (
    Original(
        "train-images-idx3-ubyte.gz",
        _MNIST_URL,
        _MNIST_FOLDERS,
        sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        content_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    Original(
        "train-labels-idx1-ubyte.gz",
        _MNIST_URL,
        _MNIST_FOLDERS,
        sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        content_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    Original(
        "t10k-images-idx3-ubyte.gz",
        _MNIST_URL,
        _MNIST_FOLDERS,
        sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        content_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    Original(
        "t10k-labels-idx1-ubyte.gz",
        _MNIST_URL,
        _MNIST_FOLDERS,
        sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        content_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)

_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_FOLDERS = ("fashion_mnist", "FashionMNIST/raw", "FashionMNIST")
FASHION_MNIST_FILES = (
    Original(
        "train-images-idx3-ubyte.gz",
        _FASHION_URL,
        _FASHION_FOLDERS,
        sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        content_sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    Original(
        "train-labels-idx1-ubyte.gz",
        _FASHION_URL,
        _FASHION_FOLDERS,
        sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        content_sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    Original(
        "t10k-images-idx3-ubyte.gz",
        _FASHION_URL,
        _FASHION_FOLDERS,
        sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        content_sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    Original(
        "t10k-labels-idx1-ubyte.gz",
        _FASHION_URL,
        _FASHION_FOLDERS,
        sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        content_sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

# Training, validation and test images, published as plain text.
_BINARIZED_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_BINARIZED_FOLDERS = ("binarized_mnist", "BinarizedMNIST")
BINARIZED_MNIST_FILES = (
    Original(
        "binarized_mnist_train.amat",
        _BINARIZED_URL,
        _BINARIZED_FOLDERS,
        sha256="ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    ),
    Original(
        "binarized_mnist_valid.amat",
        _BINARIZED_URL,
        _BINARIZED_FOLDERS,
        sha256="1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    ),
    Original(
        "binarized_mnist_test.amat",
        _BINARIZED_URL,
        _BINARIZED_FOLDERS,
        sha256="e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    ),
)
