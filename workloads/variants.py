"""Harder sets made of known ones, by the prototype's and the literature's recipes; each is fixed by instance ID."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from protocol.arrays import I64
from workloads.cache import cache_dir, file_lock, replacing, undamaged
from workloads.changes import (
    TURN_TEST,
    TURN_TRAIN,
    Pixels,
    angles,
    imbalanced,
    mislabelled,
    mislabelled_ids,
    turned,
)
from workloads.fashion_mnist import FashionMnist
from workloads.mnist import Mnist
from workloads.sources import ImageSet

TURNED_VERSION = 1
"""Part of the cached file's name; raise it whenever the same images would be turned otherwise."""


class RotatedMnist(Mnist):
    """MNIST, each image turned by an angle of its own within ±90°, the same in each epoch; the test images too."""

    name = "rotated-mnist"

    def changed(self, images: ImageSet) -> ImageSet:
        """Turned; from the cache where these very images were turned before."""
        return dataclasses.replace(
            images,
            name=f"rotated-{images.name}",
            train_images=_turned_once(images.train_images, TURN_TRAIN),
            test_images=_turned_once(images.test_images, TURN_TEST),
        )


class RotatedMnistNoisy(RotatedMnist):
    """Rotated MNIST with a tenth of the training labels wrong; those of the test and validation part are right."""

    name = "rotated-mnist-noisy"

    def changed(self, images: ImageSet) -> ImageSet:
        """Turned, then labelled wrongly."""
        return mislabelled(super().changed(images))

    @property
    def mislabelled(self) -> I64:
        """IDs of the training instances with a wrong label, ascending: for benchmarks, no role looks at them."""
        return mislabelled_ids(self.fingerprint().n)


class ImbalancedFashionMnist(FashionMnist):
    """Fashion-MNIST with class 0 whole and a twentieth of each other class; the test part is balanced, as it was.

    So the test accuracy is the balanced accuracy.
    """

    name = "imbalanced-fashion-mnist"

    def changed(self, images: ImageSet) -> ImageSet:
        """Thinned."""
        return imbalanced(images)


def _turned_once(images: Pixels, key: int) -> Pixels:
    """``images`` turned by the angles of ``key``; seconds the first time, then read from the cache folder."""
    digest = hashlib.sha256(f"{images.shape} {key}".encode())
    digest.update(np.ascontiguousarray(images).data)
    path = cache_dir() / "turned" / f"{digest.hexdigest()[:24]}-v{TURNED_VERSION}.npy"
    with file_lock(cache_dir() / "locks" / f"{path.stem}.lock"):
        found = undamaged([path], lambda: _read(path, images))
        if found is None:
            found = turned(images, angles(key, len(images)))
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, found, allow_pickle=False)
    return found


def _read(path: Path, like: Pixels) -> Pixels:
    with path.open("rb") as file:
        found: Pixels = np.lib.format.read_array(file, allow_pickle=False)
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"{found.dtype} of shape {found.shape}, expected {like.dtype} of shape {like.shape}")
    return found
