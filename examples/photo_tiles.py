"""The photo catalogue's item classes, and its source, which cuts photographs into overlapping tiles."""

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
"""Maximum width and height in pixels. Larger photographs are shrunk first, to limit the work for each photograph."""

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
BUNDLED_PHOTOS = {
    "skimage/data": """
        astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png
        grass.png gravel.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png motorcycle_left.png
        motorcycle_right.png page.png retina.jpg rocket.jpg text.png
    """,
    "sklearn/datasets/images": "china.jpg flower.jpg",
}
"""Photographs in the wheels of these packages. The drawings and test patterns in the same folders are not used."""


class CatalogError(Exception):
    """The input cannot be used. The text is one line that names the file and says what to do."""


@dataclass(frozen=True)
class Photo:
    """One photograph. `photo_id` is its number when all are sorted by name; the size is in pixels."""

    photo_id: int
    name: str
    path: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Tile:
    """A square of a photograph at one scale. `left` to `height` are in pixels of the photograph."""

    tile_id: int
    photo: Photo
    left: int
    top: int
    width: int
    height: int
    pixels: NDArray[np.uint8]  # (TILE, TILE, 3), RGB


@dataclass(frozen=True, eq=False)
class DescribedTile:
    """A tile with its perceptual hash, its sharpness and its colour histogram."""

    tile: Tile
    hash: int
    sharpness: float
    histogram: NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Neighbour:
    """`neighbour_id` is the tile that is number `rank` among the tiles most similar to `tile_id`."""

    tile_id: int
    rank: int
    neighbour_id: int
    hash_distance: int
    colour_distance: int
    is_duplicate: bool


def bundled_photos() -> dict[str, Path]:
    """Return name and path of each photograph in the installed packages. Nothing is imported or downloaded."""
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
    """Return a path as text that any database and terminal can handle, even if the path is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def folder_photos(folder: Path, leave_out: Path) -> dict[str, Path]:
    """Return name (relative to the folder) and path of each picture in a folder and its subfolders, sorted by name.

    `leave_out` is the contact sheet of an earlier run, which is not a photograph. Hidden files are skipped, because
    several systems store thumbnails in hidden files with the photograph's own suffix.
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
    """Read a picture as RGB, turned upright."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        advice = "repair it or take it out of the folder"
        raise CatalogError(f"{printable(path)}: cannot be read as a picture ({reason}); {advice}") from error


def tile_offsets(extent: int, stride: int) -> list[int]:
    """Return where tiles begin along a side of `extent` pixels: every `stride` pixels, and one that ends at the end."""
    return [*range(0, extent - TILE, stride), extent - TILE]


def scaled_sizes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes at which a photograph is cut. Each is half the size before, as long as a tile fits."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    scale = max(scale, TILE / min(width, height))  # enlarge a picture that is smaller than a tile
    limit = 4 * MAX_SIDE  # a strip that is a few pixels high would become too long
    width, height = (min(max(TILE, round(side * scale)), limit) for side in (width, height))
    while min(width, height) >= TILE:
        yield width, height
        width, height = width // 2, height // 2


def cut_tiles(photos: dict[str, Path], stride: int) -> Iterable[Tile]:
    """Source: yield overlapping tiles of every photograph at several scales, numbered in one sequence."""
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
