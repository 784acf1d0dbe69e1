"""The digits that come with the package are those that everybody knows from scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from workloads.small_sets import digits_8x8


def test_the_packaged_digits_are_scikit_learns_and_split_by_class() -> None:
    known, ours = load_digits(), digits_8x8()
    assert ours.train_images.shape == (1442, 1, 8, 8) and ours.test_images.shape == (355, 1, 8, 8)
    images = np.concatenate([ours.train_images, ours.test_images])
    labels = np.concatenate([ours.train_labels, ours.test_labels])
    theirs = zip(known.target, known.images.astype(np.uint8), strict=True)
    pairs = zip(labels, images, strict=True)
    assert sorted((int(y), x.tobytes()) for y, x in pairs) == sorted((int(y), x.tobytes()) for y, x in theirs)
    assert ours.train_images.dtype == np.uint8 and ours.train_labels.dtype == np.int64
