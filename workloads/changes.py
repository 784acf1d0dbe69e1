"""Changed copies of an image set: turned, wrongly labelled, thinned, or with a validation part for a test part.

All are fixed by a number and the instance's ID, the same on every host and by every version of numpy: they are made of
the raw numbers of Philox, which numpy promises to keep, and of whole-number arithmetic. So the fingerprints agree.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from protocol.arrays import I64
from workloads.sources import ImageSet

TURN_TRAIN, TURN_TEST, MISLABEL, OTHER_LABEL, THIN, HOLD_OUT = range(1, 7)
"""Philox keys; each choice has numbers of its own."""

MOST_DEGREES = 90.0
WRONG_SHARE = 0.1
KEPT_CLASS = 0
THINNED_TO = 20
VALIDATION_PARTS = 6
"""The validation part is one of so many: of 60,000 images as many as the test part has."""

_UNIT_BITS = 14
"""Sines and pixel positions are in units of 2^-14."""
_WEIGHT_BITS = 8
_IMAGES_AT_ONCE = 1000

Pixels = NDArray[np.uint8]


def _numbers(key: int, n: int) -> NDArray[np.uint64]:
    """One random number for each ID, shape ``(n,)``; that of an ID does not depend on ``n``."""
    raw: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(n)
    return raw


def _ids_chosen(key: int, n: int, count: int) -> I64:
    """``count`` of ``n`` IDs at random, in ascending order."""
    return np.sort(np.argsort(_numbers(key, n), kind="stable")[:count]).astype(np.int64)


def angles(key: int, n: int) -> NDArray[np.float64]:
    """The degrees by which each image is turned, uniform in ±90, shape ``(n,)``."""
    return (_numbers(key, n) / 2.0**64 * 2.0 - 1.0) * MOST_DEGREES


def turned(images: Pixels, degrees: NDArray[np.float64]) -> Pixels:
    """Each image turned by its angle, counter-clockwise, about its centre: bilinear, black from outside.

    ``images`` has shape ``(n, channels, height, width)``. About 30 µs an image of 28x28.
    """
    found = np.empty_like(images)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        found[part] = _turned_at_once(images[part], np.deg2rad(degrees[part]))
    return found


def _turned_at_once(images: Pixels, radians: NDArray[np.float64]) -> Pixels:
    n, channels, height, width = images.shape
    unit = 1 << _UNIT_BITS
    cos, sin = (np.rint(f(radians) * unit).astype(np.int32)[:, None, None] for f in (np.cos, np.sin))
    # Twice the distance from the centre is a whole number, for even and odd sides.
    x = (2 * np.arange(width, dtype=np.int32) - (width - 1))[None, None, :]
    y = (2 * np.arange(height, dtype=np.int32) - (height - 1))[None, :, None]
    left, right_weight = _place(cos * x - sin * y, width)
    top, lower_weight = _place(sin * x + cos * y, height)
    # Two black pixels all around: whatever lies outside is black at both neighbours.
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))).reshape(n, channels, -1)
    corner = ((top + 2) * (width + 4) + left + 2).reshape(n, 1, -1)
    total = np.zeros((n, channels, height * width), dtype=np.int32)
    whole = 1 << _WEIGHT_BITS
    for down, vertical in ((0, whole - lower_weight), (1, lower_weight)):
        for along, horizontal in ((0, whole - right_weight), (1, right_weight)):
            values = np.take_along_axis(padded, corner + down * (width + 4) + along, axis=2)
            total += values * (vertical * horizontal).reshape(n, 1, -1)
    rounded = (total + (1 << (2 * _WEIGHT_BITS - 1))) >> (2 * _WEIGHT_BITS)
    return rounded.astype(np.uint8).reshape(images.shape)


def _place(twice_from_centre: NDArray[np.int32], side: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The pixel at or before each position, and the weight of the next one in 256ths."""
    position = twice_from_centre + (np.int32(side - 1) << _UNIT_BITS)  # in units of half a 2^-14
    fine = position >> (_UNIT_BITS + 1 - _WEIGHT_BITS)
    return np.clip(fine >> _WEIGHT_BITS, -2, side).astype(np.int32), fine & ((1 << _WEIGHT_BITS) - 1)


def mislabelled_ids(n: int) -> I64:
    """The tenth of the IDs that get a wrong label, in ascending order."""
    return _ids_chosen(MISLABEL, n, int(n * WRONG_SHARE))


def mislabelled(images: ImageSet) -> ImageSet:
    """A tenth of the training labels replaced, each by one of the other classes at random; the test part is clean."""
    wrong = mislabelled_ids(len(images.train_labels))
    labels = images.train_labels.copy()
    classes = int(labels.max()) + 1
    shift = 1 + (_numbers(OTHER_LABEL, len(labels))[wrong] % np.uint64(max(classes - 1, 1))).astype(np.int64)
    labels[wrong] = (labels[wrong] + shift) % classes
    return dataclasses.replace(images, name=f"{images.name}-noisy", train_labels=labels)


def imbalanced(images: ImageSet) -> ImageSet:
    """Class 0 whole, a twentieth of each other class, order kept; the test part is as it was."""
    numbers, labels = _numbers(THIN, len(images.train_labels)), images.train_labels
    kept = labels == KEPT_CLASS
    for label in np.unique(labels[~kept]):
        members = np.flatnonzero(labels == label)
        count = max(1, len(members) // THINNED_TO)
        kept[members[np.argsort(numbers[members], kind="stable")[:count]]] = True
    return dataclasses.replace(
        images,
        name=f"imbalanced-{images.name}",
        train_images=images.train_images[kept],
        train_labels=labels[kept],
    )


def with_validation_part(images: ImageSet) -> ImageSet:
    """The last sixth of the training part, by a fixed permutation, in place of the test part, which goes."""
    n = len(images.train_labels)
    held_out = np.zeros(n, dtype=bool)
    held_out[_ids_chosen(HOLD_OUT, n, n // VALIDATION_PARTS)] = True
    return dataclasses.replace(
        images,
        name=f"{images.name}-less-validation",
        train_images=images.train_images[~held_out],
        train_labels=images.train_labels[~held_out],
        test_images=images.train_images[held_out],
        test_labels=images.train_labels[held_out],
    )
