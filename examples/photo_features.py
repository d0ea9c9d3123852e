"""The photo catalogue's two workers: one describes tiles, the other finds similar tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from photo_tiles import TILE, DescribedTile, Neighbour, Tile
from skimage.color import rgb2hsv

HASH_BITS = 64
HASH_SAMPLES = 32
HUE_BINS, SATURATION_BINS, VALUE_BINS = 8, 3, 4
COLOUR_BINS = HUE_BINS * SATURATION_BINS * VALUE_BINS

DUPLICATE_HASH_DISTANCE = 10
"""Two tiles are duplicates if at most this many of the 64 bits of their hashes differ, and their colours are close."""
DUPLICATE_COLOUR_DISTANCE = TILE * TILE // 4
"""Colours are close if the histograms differ by at most this sum. Without any common colour it is 2 * TILE**2."""
BLANK_SHARPNESS = 20.0
"""A tile with less sharpness is plain sky or a dark corner. All such tiles look alike, so none is a duplicate."""


def luminance(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the brightness, 0 to 255, by the weights of ITU-R BT.601, in whole numbers."""
    red, green, blue = (pixels[:, :, channel].astype(np.int64) for channel in range(3))
    return (299 * red + 587 * green + 114 * blue) // 1000


def dct_basis() -> NDArray[np.int64]:
    """Return the eight lowest rows of the discrete cosine transform, as whole numbers.

    With floating-point numbers, the sums would depend on the processor, and the bit of a coefficient close to the
    median could differ between machines.
    """
    rows = [
        [round(4096 * math.cos(math.pi * frequency * (2 * sample + 1) / (2 * HASH_SAMPLES)))
         for sample in range(HASH_SAMPLES)]
        for frequency in range(math.isqrt(HASH_BITS))
    ]  # fmt: skip
    return np.array(rows, dtype=np.int64)


DCT_BASIS = dct_basis()


def perceptual_hash(brightness: NDArray[np.int64]) -> int:
    """Return 64 bits, one for each low-frequency DCT coefficient, set if the coefficient is above the median.

    The "pHash" of C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010).
    """
    block = TILE // HASH_SAMPLES
    small = brightness.reshape(HASH_SAMPLES, block, HASH_SAMPLES, block).sum(axis=(1, 3))
    coefficients = (DCT_BASIS @ small @ DCT_BASIS.T).ravel()
    middle = np.sort(coefficients)[HASH_BITS // 2]
    return int.from_bytes(np.packbits(coefficients >= middle).tobytes(), "big")


def laplacian_variance(brightness: NDArray[np.int64]) -> float:
    """Return the sharpness: the variance of the Laplacian, computed from exact sums and rounded once.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (ICPR 2000).
    """
    centre = brightness[1:-1, 1:-1]
    sides = brightness[:-2, 1:-1] + brightness[2:, 1:-1] + brightness[1:-1, :-2] + brightness[1:-1, 2:]
    laplacian = sides - 4 * centre
    count, total, squares = laplacian.size, int(laplacian.sum()), int((laplacian * laplacian).sum())
    return (count * squares - total * total) / (count * count)


def colour_histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels in each bin of hue, saturation and value."""
    hsv = rgb2hsv(pixels)
    bins = np.array([HUE_BINS, SATURATION_BINS, VALUE_BINS])
    hue, saturation, value = np.moveaxis(np.minimum((hsv * bins).astype(np.int64), bins - 1), 2, 0)
    flat = (hue * SATURATION_BINS + saturation) * VALUE_BINS + value
    counts: NDArray[np.int64] = np.bincount(flat.ravel(), minlength=COLOUR_BINS)
    return counts


def describe_tiles(tiles: Iterable[Tile]) -> Iterable[DescribedTile]:
    """Worker: yield each tile with its perceptual hash, sharpness and colour histogram."""
    for tile in tiles:
        brightness = luminance(tile.pixels)
        yield DescribedTile(
            tile, perceptual_hash(brightness), laplacian_variance(brightness), colour_histogram(tile.pixels)
        )


class NeighbourIndex:
    """The `count` nearest neighbours of every tile in other photographs, kept up to date as tiles arrive.

    The distance of two tiles is the distance of their colours plus that of their hashes, weighted so that both have the
    same maximum. The distances and the neighbour's number are packed into one whole number, the key:

        bits above DISTANCE_SHIFT            the distance of colours and hashes together
        bits from HASH_SHIFT to there        the distance of the hashes
        bits below HASH_SHIFT                the neighbour's number

    No two keys of a tile are equal, so its `count` smallest keys do not depend on the order in which the tiles come.
    Tiles of one photograph are never neighbours, because they overlap.
    """

    HASH_WEIGHT = 2 * TILE * TILE // HASH_BITS
    HASH_SHIFT = 32
    DISTANCE_SHIFT = HASH_SHIFT + HASH_BITS.bit_length()
    NONE = int(np.iinfo(np.int64).max)

    def __init__(self, count: int) -> None:
        self._count = count
        self._size = 0
        self._allocate(capacity=256)

    def _allocate(self, capacity: int) -> None:
        self._ids = np.zeros(capacity, dtype=np.int64)
        self._photos = np.zeros(capacity, dtype=np.int64)
        self._hashes = np.zeros(capacity, dtype=np.uint64)
        self._sharp = np.zeros(capacity, dtype=np.bool_)
        self._histograms = np.zeros((capacity, COLOUR_BINS), dtype=np.int16)  # TILE * TILE fits
        self._nearest = np.full((capacity, self._count), self.NONE, dtype=np.int64)  # keys, ascending

    def _grow_if_full(self) -> None:
        if self._size == len(self._ids):
            full = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
            self._allocate(2 * self._size)
            for name, array in full.items():
                getattr(self, name)[: self._size] = array

    def add(self, described: DescribedTile) -> None:
        """Add a tile. It becomes a neighbour of the tiles before it, and they become its neighbours."""
        self._grow_if_full()
        tile, here = described.tile, self._size
        elsewhere = np.flatnonzero(self._photos[:here] != tile.photo.photo_id)
        bits = np.bitwise_count(self._hashes[elsewhere] ^ np.uint64(described.hash)).astype(np.int64)

        # Compare colours only with tiles that can become neighbours. If the distance of the hashes alone exceeds the
        # farthest neighbour of both tiles, they cannot. The new tile has no neighbours yet: the distances of the tiles
        # with the nearest hashes are an upper bound for those that it will have.
        sample = np.argsort(bits, kind="stable")[: self._count]
        bound = self._distances(bits[sample], elsewhere[sample], described).max(initial=0)
        reaches = np.maximum(self._nearest[elsewhere, -1] >> self.DISTANCE_SHIFT, bound)
        kept = bits * self.HASH_WEIGHT <= reaches
        others, bits = elsewhere[kept], bits[kept]

        keys = self._distances(bits, others, described) << self.DISTANCE_SHIFT | bits << self.HASH_SHIFT
        own = np.sort(keys | self._ids[others])[: self._count]
        self._nearest[here, : len(own)] = own
        theirs = keys | tile.tile_id
        closer = theirs < self._nearest[others, -1]
        self._nearest[others[closer], -1] = theirs[closer]
        self._nearest[others[closer]] = np.sort(self._nearest[others[closer]], axis=1)

        self._ids[here] = tile.tile_id
        self._photos[here] = tile.photo.photo_id
        self._hashes[here] = described.hash
        self._sharp[here] = described.sharpness >= BLANK_SHARPNESS
        self._histograms[here] = described.histogram
        self._size += 1

    def _distances(
        self, bits: NDArray[np.int64], others: NDArray[np.intp], described: DescribedTile
    ) -> NDArray[np.int64]:
        """Return the distance of hashes and colours together, from the described tile to each of the others."""
        differences = np.abs(self._histograms[others] - described.histogram.astype(np.int16))
        colours: NDArray[np.int64] = differences.sum(axis=1, dtype=np.int64)
        return bits * self.HASH_WEIGHT + colours

    def neighbours(self) -> Iterator[Neighbour]:
        """Yield all neighbours of all tiles, sorted by tile number and rank."""
        ids = self._ids[: self._size]
        is_sharp = dict(zip(ids.tolist(), self._sharp[: self._size].tolist(), strict=True))
        for row in np.argsort(ids):
            tile_id = int(ids[row])
            for rank, key in enumerate(self._nearest[row].tolist(), start=1):
                if key == self.NONE:
                    break
                neighbour_id = key & ((1 << self.HASH_SHIFT) - 1)
                hash_distance = key >> self.HASH_SHIFT & ((1 << self.DISTANCE_SHIFT - self.HASH_SHIFT) - 1)
                colour_distance = (key >> self.DISTANCE_SHIFT) - hash_distance * self.HASH_WEIGHT
                is_duplicate = (
                    hash_distance <= DUPLICATE_HASH_DISTANCE
                    and colour_distance <= DUPLICATE_COLOUR_DISTANCE
                    and is_sharp[tile_id]
                    and is_sharp[neighbour_id]
                )
                yield Neighbour(tile_id, rank, neighbour_id, hash_distance, colour_distance, is_duplicate)


def find_neighbours(tiles: Iterable[DescribedTile], count: int) -> Iterable[DescribedTile | Neighbour]:
    """Worker: pass every tile on at once. After the last tile, yield the `count` nearest neighbours of each."""
    index = NeighbourIndex(count)
    for described in tiles:
        index.add(described)
        yield described
    yield from index.neighbours()
