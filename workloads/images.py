"""What the image workloads share: batches, loss, evaluation, and pixel features for the Assistant.

torch is imported by the methods that a Boss calls: an Assistant does without its seconds and its memory.
"""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workloads.base import FallBack, Fingerprint, Metric, Workload
from workloads.cache import cache_dir, file_lock, replacing, undamaged
from workloads.changes import with_validation_part
from workloads.model_names import check_model
from workloads.sources import ImageSet, fall_back_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from workloads.image_tensors import ImageTensors

log = logging.getLogger("autoassist.workloads")

FEATURES_VERSION = 1
"""Part of the cached file's name; raise it whenever the same images would give other features."""

_FEATURE_ROWS = 4096


class ImageWorkload(Workload):
    """Classification of small images: cross entropy, test accuracy, and standardised pixels as features.

    A subclass says where its images come from. A variant (rotated, noisy, imbalanced) subclasses a concrete set and
    returns a changed copy, under another name, from ``changed``; everything else, the fingerprint included, follows
    from the images themselves.

    With ``validation`` a sixth of the training part, always the same, is trained on no more and evaluated on instead of
    the test part: what is tuned, is tuned on that. It is held out of the set as it was served, before any change, so
    that a variant's wrong labels or thinned classes are not in it.
    """

    def __init__(self, *, model: str = "", data_dir: Path | None = None, validation: bool = False) -> None:
        super().__init__(model=model, data_dir=data_dir)
        check_model(model)
        self.validation = validation

    @abstractmethod
    def load_images(self) -> ImageSet:
        """Fetch or make the images; called once, on first use. DataError if there is no way to them."""

    def changed(self, images: ImageSet) -> ImageSet:
        """What a variant makes of them; by default nothing."""
        return images

    @cached_property
    def images(self) -> ImageSet:
        """The images, loaded on first use."""
        served = self.load_images()
        return self.changed(with_validation_part(served) if self.validation else served)

    @cached_property
    def classes(self) -> int:
        """Number of classes: the greatest label of the training part plus one."""
        return int(self.images.train_labels.max()) + 1

    @cached_property
    def _pixel_statistics(self) -> tuple[float, float]:
        """Mean of the training pixels, 0 … 255, and one over their standard deviation."""
        counts = np.bincount(self.images.train_images.reshape(-1), minlength=256).astype(np.float64)
        values = np.arange(256, dtype=np.float64)
        mean = float((counts * values).sum() / counts.sum())
        deviation = float(np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum()))
        return mean, 1.0 / max(deviation, 1e-6)

    @cached_property
    def _tensors(self) -> ImageTensors:
        from workloads.image_tensors import ImageTensors

        shift, scale = self._pixel_statistics
        return ImageTensors.of(self.images, shift=shift, scale=scale)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.images.train_images).data)
        digest.update(np.ascontiguousarray(self.images.train_labels.astype("<i8")).data)
        return Fingerprint(f"{self.images.name}-train:{digest.hexdigest()[:16]}", len(self.images.train_labels))

    def fingerprint(self) -> Fingerprint:
        """Name of the set that was served, hash of its training images and labels, and their number."""
        return self._fingerprint

    @property
    def fall_back(self) -> FallBack | None:
        """The small set that stands in, where nothing serves the images that were asked for."""
        return fall_back_of(self.images)

    def batch(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images ``(len(ids), c, h, w)`` float32, standardised, and labels ``(len(ids),)`` int64; on the CPU."""
        return self._tensors.batch(ids)

    def boss(self) -> nn.Module:
        """The model that ``--model`` names, for this set's image size and number of classes."""
        from workloads.models import make_model

        _, channels, height, width = self.images.train_images.shape
        return make_model(self.model, channels=channels, height=height, width=width, classes=self.classes)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each instance, nats, shape ``(batch,)``."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, reduction="none")

    def evaluate(self, boss: nn.Module, device: torch.device) -> Metric:
        """Fraction of the test images, or of the validation part, whose greatest logit is the label's."""
        part = "validation" if self.validation else "test"
        return Metric(f"{part}_accuracy", self._tensors.accuracy(boss, device))

    def preview(self, instance_id: int) -> NDArray[np.uint8]:
        """The image as it was served."""
        pixels: NDArray[np.uint8] = self.images.train_images[instance_id].transpose(1, 2, 0)
        return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels

    def labels(self) -> NDArray[np.int64]:
        """Class of each training instance, shape ``(n,)``, read-only."""
        view = self.images.train_labels.view()
        view.flags.writeable = False
        return view

    def features(self) -> NDArray[np.float32]:
        """Standardised pixels, shape ``(n, c·h·w)`` float32: a read-only memory map of a file in the cache folder.

        Built once per data set, by whichever process comes first; the others wait for it and share its pages.
        """
        return self._features

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        identity = self.fingerprint().dataset_id.replace(":", "-")
        path = cache_dir() / "features" / f"{identity}-pixels-v{FEATURES_VERSION}.npy"
        count, *shape = self.images.train_images.shape
        expected = (count, int(np.prod(shape)))
        with file_lock(cache_dir() / "locks" / f"{path.stem}.lock"):
            mapped = undamaged([path], lambda: _open_features(path, expected))
            if mapped is None:
                self._build_features(path, expected)
                mapped = np.load(path, mmap_mode="r")
        return mapped

    def _build_features(self, path: Path, shape: tuple[int, int]) -> None:
        log.info("%s: building pixel features, %.0f MB, once", self.images.name, shape[0] * shape[1] * 4 / 1e6)
        shift, scale = np.float32(self._pixel_statistics[0]), np.float32(self._pixel_statistics[1])
        # Plain writes: on a full disk they fail with an error, where writing through a map ends the process.
        with replacing(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, shape[0], _FEATURE_ROWS):
                rows = self.images.train_images[start : start + _FEATURE_ROWS]
                pixels = rows.reshape(len(rows), -1).astype(np.float32)
                file.write(((pixels - shift) * scale).data)


def _open_features(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    mapped: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="r")
    if mapped.shape != shape or mapped.dtype != np.float32:
        raise ValueError(f"{mapped.dtype} of shape {mapped.shape}, expected float32 of shape {shape}")
    return mapped
