"""The photo catalogue's sink, which writes a SQLite database and a contact sheet, and the checks of their paths."""

from __future__ import annotations

import math
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from photo_features import COLOUR_BINS
from photo_tiles import CatalogError, DescribedTile, Neighbour
from PIL import Image, ImageDraw, ImageFont

APPLICATION_ID = 0x50484F54  # "PHOT": marks a catalogue, so that no other database is replaced
SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE photos (
    photo_id INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    path     TEXT NOT NULL,
    width    INTEGER NOT NULL,
    height   INTEGER NOT NULL
);
CREATE TABLE tiles (                        -- the place of a tile is given in pixels of the photograph
    tile_id   INTEGER PRIMARY KEY,
    photo_id  INTEGER NOT NULL REFERENCES photos,
    "left"    INTEGER NOT NULL,
    "top"     INTEGER NOT NULL,
    width     INTEGER NOT NULL,
    height    INTEGER NOT NULL,
    hash      TEXT NOT NULL,                -- 64 bits in hexadecimal
    sharpness REAL NOT NULL,                -- variance of the Laplacian
    histogram BLOB NOT NULL                 -- {COLOUR_BINS} counts, uint32 little-endian
);
CREATE INDEX tiles_of_photo ON tiles (photo_id);
CREATE TABLE neighbours (
    tile_id         INTEGER NOT NULL REFERENCES tiles,
    rank            INTEGER NOT NULL,       -- 1 is the nearest
    neighbour_id    INTEGER NOT NULL REFERENCES tiles,
    hash_distance   INTEGER NOT NULL,       -- bits that differ
    colour_distance INTEGER NOT NULL,       -- sum of the differences of the two histograms
    is_duplicate    INTEGER NOT NULL CHECK (is_duplicate IN (0, 1)),
    PRIMARY KEY (tile_id, rank)
) WITHOUT ROWID;
CREATE VIEW duplicates AS                   -- each pair once
    SELECT DISTINCT min(tile_id, neighbour_id) AS first_id, max(tile_id, neighbour_id) AS second_id
    FROM neighbours WHERE is_duplicate;
"""


def save_catalog(items: Iterable[DescribedTile | Neighbour], database: Path, contact_sheet: Path) -> None:
    """Sink: write everything into a new database, in one transaction, and draw the contact sheet."""
    sharpest: dict[int, DescribedTile] = {}
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(SCHEMA)
            with connection:  # commits at its end, rolls back if anything is raised inside
                for item in items:
                    if isinstance(item, DescribedTile):
                        insert_tile(connection, item)
                        photo_id = item.tile.photo.photo_id
                        best = sharpest.get(photo_id)
                        if best is None or sharpness_order(item) > sharpness_order(best):
                            sharpest[photo_id] = item
                    else:
                        insert_neighbour(connection, item)
    except sqlite3.Error as error:
        raise CatalogError(f"{database}: cannot be written ({error}); free disk space, or change --database") from error
    try:
        draw_contact_sheet([sharpest[photo_id] for photo_id in sorted(sharpest)]).save(contact_sheet)
    except OSError as error:
        reason = error.strerror or error
        raise CatalogError(f"{contact_sheet}: cannot be written ({reason}); change --contact-sheet") from error


def sharpness_order(described: DescribedTile) -> tuple[float, int]:
    """Return a sort key: the sharpest tile is last; of equally sharp tiles, the one that was cut first."""
    return described.sharpness, -described.tile.tile_id


def insert_tile(connection: sqlite3.Connection, described: DescribedTile) -> None:
    """Insert the row of a tile, and that of its photograph if this is the photograph's first tile to arrive."""
    tile, photo = described.tile, described.tile.photo
    connection.execute(
        "INSERT OR IGNORE INTO photos VALUES (?, ?, ?, ?, ?)",
        (photo.photo_id, photo.name, photo.path, photo.width, photo.height),
    )
    connection.execute(
        "INSERT INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            tile.tile_id, photo.photo_id, tile.left, tile.top, tile.width, tile.height,
            f"{described.hash:016x}", described.sharpness, described.histogram.astype("<u4").tobytes(),
        ),
    )  # fmt: skip


def insert_neighbour(connection: sqlite3.Connection, found: Neighbour) -> None:
    """Insert the row of a neighbour."""
    connection.execute(
        "INSERT INTO neighbours VALUES (?, ?, ?, ?, ?, ?)",
        (
            found.tile_id, found.rank, found.neighbour_id,
            found.hash_distance, found.colour_distance, found.is_duplicate,
        ),
    )  # fmt: skip


def draw_contact_sheet(tiles: list[DescribedTile]) -> Image.Image:
    """Draw one cell for each tile: the photograph's name, the sharpness, and the tile's place in the photograph."""
    side, margin, label_height, title_height = 176, 16, 64, 52
    ink, grey, paper = (30, 30, 34), (110, 108, 104), (250, 249, 246)
    columns = max(1, min(len(tiles), math.ceil(math.sqrt(1.6 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width = max(margin + columns * (side + margin), 2 * side + 3 * margin)  # the title needs two columns
    sheet = Image.new("RGB", (width, title_height + rows * (side + label_height) + margin), paper)
    draw = ImageDraw.Draw(sheet)
    title_font, name_font, detail_font = (ImageFont.load_default(size) for size in (20, 13, 11))
    draw.text((margin, 16), "The sharpest tile of each photograph", fill=ink, font=title_font)
    for number, described in enumerate(tiles):
        tile, name = described.tile, described.tile.photo.name
        left = margin + number % columns * (side + margin)
        top = title_height + number // columns * (side + label_height)
        picture = Image.fromarray(tile.pixels).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top))
        while draw.textlength(name, font=name_font) > side:
            name = "..." + name.lstrip(".")[1:]  # keep the end of a path, which is more useful than its beginning
        sharpness = f"sharpness {described.sharpness:,.0f}"
        place = f"{tile.width} x {tile.height} pixels at {tile.left}, {tile.top}"
        draw.text((left, top + side + 4), name, fill=ink, font=name_font)
        draw.text((left, top + side + 21), sharpness, fill=grey, font=detail_font)
        draw.text((left, top + side + 36), place, fill=grey, font=detail_font)
    return sheet


def check_output(path: Path, option: str) -> None:
    """Refuse a path that cannot be written, before any work is done."""
    if not path.parent.is_dir():
        raise CatalogError(f"{path}: its folder does not exist; create it, or change {option}")
    if path.is_dir():
        raise CatalogError(f"{path}: is a folder; change {option} to the name of a file")
    # Also check the permission bits: root can write to a file that its owner has made read-only, but should not.
    if path.exists() and not (os.access(path, os.W_OK) and path.stat().st_mode & 0o222):
        raise CatalogError(f"{path}: is read-only; make it writable, or change {option}")


def check_database(path: Path) -> None:
    """Refuse to replace a database that is in use, or a file that is not a catalogue of this program."""
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise CatalogError(
            f"{path}: cannot be replaced ({error}); close the program that uses it, or change --database"
        ) from error
    except sqlite3.DatabaseError:
        application_id = None
    if application_id != APPLICATION_ID:
        raise CatalogError(f"{path}: is not a photo catalogue, so it is not replaced; delete it, or change --database")


@contextmanager
def folder_beside(target: Path, option: str) -> Iterator[Path]:
    """Make a temporary folder on the target's file system, so that one rename can put the finished file in place."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent)
    except OSError as error:
        raise CatalogError(f"{target}: its folder cannot be written ({error.strerror}); change {option}") from error
    with folder as name:
        yield Path(name)


def replace(finished: Path, target: Path, option: str) -> None:
    """Replace the target by a finished file in one step, so that no reader ever sees an incomplete file."""
    try:
        os.replace(finished, target)
    except OSError as error:
        raise CatalogError(f"{target}: cannot be replaced ({error.strerror}); change {option}") from error


def read_rows(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read every row of every table, in order."""
    with closing(sqlite3.connect(database)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("photos", "tiles", "neighbours", "duplicates")
        }
