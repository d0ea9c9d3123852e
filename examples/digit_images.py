"""Images of handwritten digits: those of scikit-learn, split into training and held-out parts, or those in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Pillow and scikit-learn are imported inside the functions that need them. Every step's process imports this module,
# but only the source needs those packages.

DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""The classes of the network by index."""

SIDE = 8
"""Width and height of an image in pixels."""

TRAINING_COUNT = 1198
"""Number of scikit-learn's digits for training: the first two thirds. The others are held out. The digits are sorted by
writer, so a split by position holds out writers that the network has not seen; a random split would not."""

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class DigitsError(Exception):
    """The example cannot continue. The text is one line that says why and what to do."""


@dataclass(frozen=True, eq=False)
class DigitImage:
    """One digit. In `pixels`, 0 is paper and 255 is ink. `label` is the digit that it shows, or None if unknown."""

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)  # (SIDE, SIDE)
    label: int | None


def all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's 1797 digits, (1797, 8, 8), and their labels. They are in its wheel, so no download."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # the original values are 0 to 16
    return pixels, digits.target.astype(np.int64)


def training_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels, (1198, 8, 8), and labels of the training part."""
    pixels, labels = all_digits()
    return pixels[:TRAINING_COUNT], labels[:TRAINING_COUNT]


def held_out_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pixels, (599, 8, 8), and labels of the held-out part."""
    pixels, labels = all_digits()
    return pixels[TRAINING_COUNT:], labels[TRAINING_COUNT:]


def load_held_out(repeat: int) -> Iterable[DigitImage]:
    """Source: yield all held-out digits, `repeat` times."""
    pixels, labels = held_out_digits()
    for _ in range(repeat):
        for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True), start=TRAINING_COUNT):
            yield DigitImage(f"digits[{number}]", image, label)


def load_pictures(paths: list[Path], repeat: int) -> Iterable[DigitImage]:
    """Source: yield the digit in each picture, all pictures `repeat` times."""
    for _ in range(repeat):
        for path in paths:
            yield DigitImage(str(path), read_picture(path), label_of(path))


def folder_pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder and its subfolders, sorted by name."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "there is no such folder"
        raise DigitsError(f"{folder}: {problem}; name a folder that holds pictures of digits")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if not paths:
        suffixes = " ".join(sorted(PICTURE_SUFFIXES))
        raise DigitsError(f"{folder}: no pictures in this folder; name one that holds any of {suffixes}")
    return paths


def label_of(path: Path) -> int | None:
    """Return the digit that the picture's folder is named after, as in 7/scan.png and seven/scan.png."""
    name = path.parent.name.lower()
    if name in DIGIT_NAMES:
        return DIGIT_NAMES.index(name)
    return int(name) if name in {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"} else None


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture and shrink it to (SIDE, SIDE). The colour of its corners counts as paper."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            grey = ImageOps.exif_transpose(picture).convert("L")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DigitsError(
            f"{path}: cannot be read as a picture ({reason}); repair it or take it out of the folder"
        ) from error
    last_column, last_row = grey.width - 1, grey.height - 1
    corners = [(0, 0), (last_column, 0), (0, last_row), (last_column, last_row)]
    if np.mean([grey.getpixel(corner) for corner in corners]) > 127:
        grey = ImageOps.invert(grey)
    return np.asarray(ImageOps.pad(grey, (SIDE, SIDE), Image.Resampling.BOX, color=0))
