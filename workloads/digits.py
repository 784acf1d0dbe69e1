"""Handwritten digits of 8×8 pixels: seconds to train, no download; for trying things out."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import SettingError
from workloads.images import ImageWorkload
from workloads.small_sets import digits_8x8
from workloads.sources import ImageSet


class Digits(ImageWorkload):
    """1,797 digits that come with AutoAssist; a fifth of each class is the test part."""

    name = "digits"

    def __init__(self, *, model: str = "", data_dir: Path | None = None, validation: bool = False) -> None:
        """Raises SettingError for a ``data_dir``; a subclass may have a use for one."""
        super().__init__(model=model, data_dir=data_dir, validation=validation)
        if data_dir is not None and type(self) is Digits:
            raise SettingError(
                f"data_dir={data_dir}: {self.name} is packaged with AutoAssist and reads no files; "
                "leave out --data-dir, or choose a workload that has files"
            )

    def load_images(self) -> ImageSet:
        """The packaged set."""
        return digits_8x8()
