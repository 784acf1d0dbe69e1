"""Handwritten digits of 8×8 pixels: seconds to train, no download; for trying things out."""

from __future__ import annotations

from protocol.errors import DataError
from workloads.images import ImageWorkload
from workloads.small_sets import digits_8x8
from workloads.sources import ImageSet, SourceFailed


class Digits(ImageWorkload):
    """scikit-learn's digits, 1,797 of them; a fifth of each class is the test part."""

    name = "digits"

    def load_images(self) -> ImageSet:
        """The packaged set; ``data_dir`` is not used. DataError if scikit-learn is missing."""
        try:
            return digits_8x8()
        except SourceFailed as failure:
            raise DataError(f"digits: {failure}") from failure
