"""Fashion-MNIST, 60,000 training and 10,000 test images of clothes (Zalando, MIT): the benchmark set."""

from __future__ import annotations

from workloads.fetch import DebianSource, MirrorSource
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

FASHION_MNIST = Archive(
    name="fashion-mnist",
    sha256={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


class FashionMnist(ImageWorkload):
    """Fashion-MNIST in full.

    No package ships a small Fashion-MNIST. Where nothing serves the full one, 5,000 MNIST *digits* stand in so that a
    first run works at all; the log says so, and the fingerprint begins with ``mnist-5k``.
    """

    name = "fashion-mnist"

    def sources(self) -> list[Source]:
        """Where to look, in order."""
        given = [] if self.data_dir is None else [DirectorySource(self.data_dir, ("FashionMNIST/raw",))]
        return [
            *given,
            CacheSource(),
            MirrorSource("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            MirrorSource("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"),
            DebianSource(
                "dataset-fashion-mnist",
                folder="usr/share/datasets/fashion-mnist",
                sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            ),
        ]

    def load_images(self) -> ImageSet:
        """From the first source that serves; DataError if a file of the user's is damaged."""
        return load_images(FASHION_MNIST, self.sources(), mnist_5k)
