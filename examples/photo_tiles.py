"""The photo catalogue's messages and its source: photographs cut into overlapping tiles."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

TILE = 128
"""Width and height of a tile in pixels."""
MAX_SIDE = 1024
"""Larger photographs are shrunk to this many pixels first, so that the work per photograph is bounded."""

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
BUNDLED_PHOTOS = {
    "skimage/data": """
        astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png
        grass.png gravel.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png motorcycle_left.png
        motorcycle_right.png page.png retina.jpg rocket.jpg text.png
    """,
    "sklearn/datasets/images": "china.jpg flower.jpg",
}
"""Photographs inside the wheels of these packages; drawings and test patterns beside them are left out."""


class CatalogError(Exception):
    """Bad input; its text is one line that names the file and says what to do."""


@dataclass(frozen=True)
class Photo:
    """One photograph: its number in order of name, and its size in pixels."""

    photo_id: int
    name: str
    path: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Tile:
    """A square of a photograph at one scale; `left` to `height` are in pixels of the photograph."""

    tile_id: int
    photo: Photo
    left: int
    top: int
    width: int
    height: int
    pixels: NDArray[np.uint8]  # (TILE, TILE, 3), RGB


@dataclass(frozen=True, eq=False)
class DescribedTile:
    """A tile with what can be said of it without looking at any other."""

    tile: Tile
    hash: int
    sharpness: float
    histogram: NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Neighbour:
    """`neighbour_id` is the tile that comes `rank`-th among those that resemble the tile `tile_id`."""

    tile_id: int
    rank: int
    neighbour_id: int
    hash_distance: int
    colour_distance: int
    is_duplicate: bool


def bundled_photos() -> dict[str, Path]:
    """Name and path of each photograph in the installed packages; nothing is imported or downloaded."""
    photos = {}
    for folder, file_names in BUNDLED_PHOTOS.items():
        package, inner_folder = folder.split("/", maxsplit=1)
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            paths = [Path(root, inner_folder, file_name) for file_name in file_names.split()]
            photos.update({f"{package}/{path.name}": path for path in paths if path.is_file()})
    if not photos:
        raise CatalogError(
            "no photographs found inside scikit-image or scikit-learn; name a folder of pictures instead"
        )
    return photos


def printable(path: Path) -> str:
    """The path as text that any database and terminal takes, even if its name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def folder_photos(folder: Path, leave_out: Path) -> dict[str, Path]:
    """Name (relative to the folder) and path of each picture in and below a folder, in order of name.

    `leave_out` is the contact sheet of an earlier run, which is no photograph. Hidden files are skipped:
    several systems keep thumbnails in them under the photograph's own suffix.
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "there is no such folder"
        raise CatalogError(f"{folder}: {problem}; name a folder that holds pictures")
    found = {
        printable(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() and path.resolve() != leave_out.resolve()
    }
    photos = {name: found[name] for name in sorted(found) if not any(part[0] == "." for part in name.split("/"))}
    if not photos:
        suffixes = " ".join(sorted(PICTURE_SUFFIXES))
        raise CatalogError(f"{folder}: no pictures in this folder; name one that holds any of {suffixes}")
    return photos


def read_picture(path: Path) -> Image.Image:
    """The picture in RGB, upright."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        advice = "repair it or take it out of the folder"
        raise CatalogError(f"{printable(path)}: cannot be read as a picture ({reason}); {advice}") from error


def tile_offsets(extent: int, stride: int) -> list[int]:
    """Where tiles begin along a side of `extent` pixels: every `stride`, and one flush with the end."""
    return [*range(0, extent - TILE, stride), extent - TILE]


def scaled_sizes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """The sizes at which a photograph is cut: halved from one to the next while a tile still fits."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    scale = max(scale, TILE / min(width, height))  # a picture smaller than a tile is enlarged to one,
    limit = 4 * MAX_SIDE  # but a strip of a few pixels not without end
    width, height = (min(max(TILE, round(side * scale)), limit) for side in (width, height))
    while min(width, height) >= TILE:
        yield width, height
        width, height = width // 2, height // 2


def cut_tiles(photos: dict[str, Path], stride: int) -> Iterable[Tile]:
    """Source: overlapping tiles of every photograph at several scales, numbered in one sequence."""
    tile_id = 0
    for photo_id, (name, path) in enumerate(photos.items(), start=1):
        picture = read_picture(path)
        photo = Photo(photo_id, name, printable(path), picture.width, picture.height)
        for width, height in scaled_sizes(picture.width, picture.height):
            scaled = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
            for top in tile_offsets(height, stride):
                for left in tile_offsets(width, stride):
                    tile_id += 1
                    yield Tile(
                        tile_id,
                        photo,
                        left=left * photo.width // width,
                        top=top * photo.height // height,
                        width=TILE * photo.width // width,
                        height=TILE * photo.height // height,
                        pixels=scaled[top : top + TILE, left : left + TILE].copy(),
                    )
