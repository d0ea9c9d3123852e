"""The photo catalogue of `examples/`: its steps as plain generators, its rows under every way, bad input."""

# The imports below stand after what decides whether and where they are found.
# ruff: noqa: E402

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from ways import WAYS

for package in ("numpy", "PIL", "skimage", "sklearn"):
    pytest.importorskip(package)

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# At import, not in a fixture: a spawned process imports this module too, and unpickles the example's classes.
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import photo_catalog
import photo_features
import photo_files
import photo_tiles
from photo_tiles import TILE, CatalogError, DescribedTile, Neighbour, Photo, Tile

from pipeline_executor import PipelineTask, execute
from pipeline_executor.options import Parallelism

Rows: TypeAlias = dict[str, list[tuple[object, ...]]]


@pytest.fixture(params=[way for way in WAYS if not way.startswith("thread")])
def parallelism(request: pytest.FixtureRequest, set_core: Callable[[str], None]) -> str:
    """Each way that the example offers: its steps compute, which threads would do in turn."""
    way, _, core = request.param.partition("/")
    set_core(core)
    return str(way)


# What the tests work on


def scene(seed: int, width: int, height: int) -> Image.Image:
    """A smooth random picture that resembles no other: few large blots of colour."""
    blots = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize((width, height), Image.Resampling.BICUBIC)


def grainy(picture: Image.Image) -> Image.Image:
    """The picture with fine texture on it, so that its tiles are not blank."""
    grain = np.random.default_rng(0).integers(-12, 13, (picture.height, picture.width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, of which `b/copy.jpg` is `a.png` once more; beside them what is no picture."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    grainy(scene(1, 300, 200)).save(folder / "a.png")
    grainy(scene(1, 300, 200)).save(folder / "b" / "copy.jpg", quality=90)
    grainy(scene(2, 256, 260)).convert("L").save(folder / "c.bmp")
    scene(3, 90, 60).save(folder / "small.PNG")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture either")
    return folder


def photos_of(folder: Path) -> dict[str, Path]:
    return photo_tiles.folder_photos(folder, leave_out=folder / "photo_catalog.png")


def make_tile(
    tile_id: int, pixels: NDArray[np.uint8] | None = None, *, photo_id: int = 1, left: int = 0, top: int = 0
) -> Tile:
    photo = Photo(photo_id, f"photo {photo_id}", f"/photos/{photo_id}.png", 640, 480)
    if pixels is None:
        pixels = np.zeros((TILE, TILE, 3), dtype=np.uint8)
    return Tile(tile_id, photo, left, top, TILE, TILE, pixels)


def described_tiles(seed: int, count: int, photos: int) -> list[DescribedTile]:
    """Tiles with few different hashes and histograms, so that ties are many."""
    rng = random.Random(seed)
    described = []
    for tile_id in range(1, count + 1):
        histogram = np.zeros(photo_features.COLOUR_BINS, dtype=np.int64)
        filled = rng.randint(0, 4) * TILE * TILE // 4
        histogram[0], histogram[1] = filled, TILE * TILE - filled
        bits = (1 << 4 * rng.randint(0, 16)) - 1
        tile = make_tile(tile_id, photo_id=rng.randint(1, photos))
        described.append(DescribedTile(tile, bits, sharpness=rng.choice([1.0, 900.0]), histogram=histogram))
    return described


def chain(folder: Path, database: Path, contact_sheet: Path, stride: int = 40) -> Rows:
    """All four steps chained by hand, without the library."""
    tiles = photo_tiles.cut_tiles(photos_of(folder), stride)
    found = photo_features.find_neighbours(photo_features.describe_tiles(tiles), photo_catalog.NEIGHBOURS)
    photo_files.save_catalog(found, database, contact_sheet)
    return photo_files.read_rows(database)


def rows_by_hand(folder: Path, cwd: Path) -> Rows:
    return chain(folder, cwd / "by_hand.db", cwd / "by_hand.png")


# Source


def test_source_covers_every_pixel_of_a_photo_with_overlapping_tiles(folder: Path) -> None:
    tiles = list(photo_tiles.cut_tiles({"a.png": folder / "a.png"}, stride=40))
    covered = np.zeros((200, 300), dtype=np.int64)
    for tile in tiles:
        assert tile.pixels.shape == (TILE, TILE, 3)
        assert tile.pixels.dtype == np.uint8
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.min() >= 1
    assert covered.max() >= 4
    assert [tile.tile_id for tile in tiles] == list(range(1, len(tiles) + 1))


def test_source_cuts_the_original_pixels_at_full_scale(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "a.png"))
    for tile in photo_tiles.cut_tiles({"a.png": folder / "a.png"}, stride=40):
        expected = pixels[tile.top : tile.top + TILE, tile.left : tile.left + TILE]
        assert np.array_equal(tile.pixels, expected)


def test_source_cuts_several_scales(tmp_path: Path) -> None:
    scene(4, 600, 520).save(tmp_path / "large.png")
    tiles = list(photo_tiles.cut_tiles({"large.png": tmp_path / "large.png"}, stride=200))
    assert sorted({tile.width for tile in tiles}) == [128, 256, 512]
    assert all(tile.left + tile.width <= 600 and tile.top + tile.height <= 520 for tile in tiles)


@pytest.mark.parametrize(
    ("width", "height", "sizes"),
    [
        (90, 60, [(192, 128)]),
        (4096, 2048, [(1024, 512), (512, 256), (256, 128)]),
        (1, 1, [(128, 128)]),
        (100_000, 1, [(4096, 128)]),
    ],
)
def test_scales_stay_between_one_tile_and_a_bound(width: int, height: int, sizes: list[tuple[int, int]]) -> None:
    assert list(photo_tiles.scaled_sizes(width, height)) == sizes


def test_source_turns_a_photo_upright_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    scene(5, 300, 200).save(tmp_path / "turned.jpg", exif=exif)
    first = next(iter(photo_tiles.cut_tiles({"turned.jpg": tmp_path / "turned.jpg"}, stride=100)))
    assert (first.photo.width, first.photo.height) == (200, 300)


def test_folder_lists_pictures_by_name_without_hidden_files_and_earlier_contact_sheet(folder: Path) -> None:
    scene(6, 200, 200).save(folder / "photo_catalog.png")
    assert list(photos_of(folder)) == ["a.png", "b/copy.jpg", "c.bmp", "small.PNG"]


def test_bundled_photos_are_real_files_that_can_be_read() -> None:
    photos = photo_tiles.bundled_photos()
    assert {"sklearn/china.jpg", "sklearn/flower.jpg"} <= photos.keys()
    for path in photos.values():
        assert min(photo_tiles.read_picture(path).size) > 100


# Descriptors


def test_hash_survives_brightness_scale_and_jpeg_but_tells_scenes_apart(tmp_path: Path) -> None:
    def hash_of(picture: Image.Image) -> int:
        pixels = np.asarray(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BOX))
        return photo_features.perceptual_hash(photo_features.luminance(pixels))

    original = scene(7, 512, 512)
    brighter = original.point(lambda value: value * 0.8 + 30)
    original.save(tmp_path / "saved.jpg", quality=70)
    assert (hash_of(original) ^ hash_of(brighter)).bit_count() <= 4
    assert (hash_of(original) ^ hash_of(original.resize((300, 300)))).bit_count() <= 4
    assert (hash_of(original) ^ hash_of(Image.open(tmp_path / "saved.jpg"))).bit_count() <= 4
    assert (hash_of(original) ^ hash_of(scene(8, 512, 512))).bit_count() >= 20


def test_hash_is_the_sign_pattern_of_the_cosine_transform() -> None:
    scipy_fft = pytest.importorskip("scipy.fft")
    brightness = photo_features.luminance(np.asarray(scene(9, TILE, TILE)))
    small = brightness.reshape(32, TILE // 32, 32, TILE // 32).sum(axis=(1, 3)).astype(float)
    coefficients = scipy_fft.dct(scipy_fft.dct(small, axis=0), axis=1)[:8, :8].ravel()
    expected = "".join("1" if bit else "0" for bit in coefficients >= np.sort(coefficients)[32])
    found = photo_features.perceptual_hash(brightness)
    assert (found ^ int(expected, 2)).bit_count() <= 2  # two coefficients beside the median may swap


def test_sharpness_is_zero_on_a_plane_and_falls_with_blur() -> None:
    def sharpness(picture: Image.Image) -> float:
        return photo_features.laplacian_variance(photo_features.luminance(np.asarray(picture)))

    picture = grainy(scene(10, TILE, TILE))
    assert sharpness(Image.new("RGB", (TILE, TILE), (90, 90, 90))) == 0.0
    assert sharpness(picture) > 2 * sharpness(picture.filter(ImageFilter.GaussianBlur(1))) > 0


def test_sharpness_equals_numpy_on_a_random_tile() -> None:
    noise = np.random.default_rng(11).integers(0, 256, (TILE, TILE), dtype=np.int64)
    padded = noise.astype(float)
    laplacian = sum(np.roll(padded, shift, axis) for axis in (0, 1) for shift in (-1, 1)) - 4 * padded
    assert photo_features.laplacian_variance(noise) == pytest.approx(laplacian[1:-1, 1:-1].var())


def test_histogram_counts_every_pixel_once_in_the_bin_of_its_colour() -> None:
    pixels = np.zeros((TILE, TILE, 3), dtype=np.uint8)
    pixels[:32] = 255, 0, 0  # red: hue 0, full saturation and value
    pixels[32:40] = 0, 0, 255  # blue: hue 2/3
    histogram = photo_features.colour_histogram(pixels)
    black, red, blue = 0, 2 * 4 + 3, (5 * 3 + 2) * 4 + 3
    assert {bin_: int(histogram[bin_]) for bin_ in np.flatnonzero(histogram)} == {
        black: (TILE - 40) * TILE,
        red: 32 * TILE,
        blue: 8 * TILE,
    }


def test_describe_hands_each_tile_on_as_soon_as_it_came() -> None:
    taken = 0

    def source() -> Iterator[Tile]:
        nonlocal taken
        for tile_id in (7, 3):
            taken += 1
            yield make_tile(tile_id)

    steps = iter(photo_features.describe_tiles(source()))
    assert next(steps).tile.tile_id == 7
    assert taken == 1
    assert [described.tile.tile_id for described in steps] == [3]


# Neighbours


def neighbours_of(described: Iterable[DescribedTile], count: int) -> list[Neighbour]:
    found = photo_features.find_neighbours(described, count)
    return [item for item in found if isinstance(item, Neighbour)]


def neighbours_by_brute_force(described: list[DescribedTile], count: int) -> list[Neighbour]:
    found = []
    for one in described:
        candidates = []
        for other in described:
            if other.tile.photo != one.tile.photo:
                bits = (one.hash ^ other.hash).bit_count()
                colour = int(np.abs(one.histogram - other.histogram).sum())
                candidates.append((512 * bits + colour, bits, other.tile.tile_id, colour, other.sharpness))
        for rank, (_, bits, tile_id, colour, sharpness) in enumerate(sorted(candidates)[:count], start=1):
            alike = bits <= 10 and colour <= 4096 and min(one.sharpness, sharpness) >= 20.0
            found.append(Neighbour(one.tile.tile_id, rank, tile_id, bits, colour, alike))
    return found


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("photos", [1, 2, 9])
def test_neighbours_equal_brute_force(photos: int, count: int) -> None:
    described = described_tiles(seed=photos, count=300, photos=photos)  # more than the index first has room for
    assert neighbours_of(described, count) == neighbours_by_brute_force(described, count)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_do_not_depend_on_the_order_in_which_tiles_arrive(seed: int) -> None:
    described = described_tiles(seed=0, count=120, photos=5)
    expected = neighbours_of(described, 3)
    random.Random(seed).shuffle(described)
    assert neighbours_of(described, 3) == expected
    assert any(neighbour.is_duplicate for neighbour in expected)
    assert not all(neighbour.is_duplicate for neighbour in expected)


def test_find_neighbours_hands_every_tile_on_before_the_next_is_read() -> None:
    described = described_tiles(seed=1, count=4, photos=2)
    taken: list[DescribedTile] = []

    def source() -> Iterator[DescribedTile]:
        for item in described:
            taken.append(item)
            yield item

    found = iter(photo_features.find_neighbours(source(), count=2))
    for number, item in enumerate(described, start=1):
        assert next(found) is item
        assert len(taken) == number


def test_a_lone_photo_has_no_neighbours() -> None:
    assert neighbours_of(described_tiles(seed=2, count=10, photos=1), 3) == []


# Sink


def test_database_holds_photos_tiles_neighbours_and_the_copy(folder: Path, tmp_path: Path) -> None:
    rows = chain(folder, tmp_path / "out.db", tmp_path / "out.png")
    names = {photo[0]: photo[1] for photo in rows["photos"]}
    photo_of_tile = {tile[0]: names[tile[1]] for tile in rows["tiles"]}
    pairs = {(photo_of_tile[first], photo_of_tile[second]) for first, second in rows["duplicates"]}
    assert list(names.values()) == ["a.png", "b/copy.jpg", "c.bmp", "small.PNG"]
    assert pairs == {("a.png", "b/copy.jpg")}
    assert len(rows["tiles"]) == len(list(photo_tiles.cut_tiles(photos_of(folder), 40)))
    assert len(rows["neighbours"]) == 3 * len(rows["tiles"])


def test_database_refers_only_to_rows_that_exist(folder: Path, tmp_path: Path) -> None:
    chain(folder, tmp_path / "out.db", tmp_path / "out.png")
    with closing(sqlite3.connect(tmp_path / "out.db")) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_rows_do_not_depend_on_the_order_in_which_tiles_reach_the_sink(folder: Path, tmp_path: Path) -> None:
    expected = chain(folder, tmp_path / "one.db", tmp_path / "one.png")
    described = list(photo_features.describe_tiles(photo_tiles.cut_tiles(photos_of(folder), 40)))
    random.Random(12).shuffle(described)
    found = photo_features.find_neighbours(described, photo_catalog.NEIGHBOURS)
    photo_files.save_catalog(found, tmp_path / "two.db", tmp_path / "two.png")
    assert photo_files.read_rows(tmp_path / "two.db") == expected
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_contact_sheet_shows_the_sharpest_tile_of_each_photo(tmp_path: Path) -> None:
    def described(tile_id: int, photo_id: int, sharpness: float, grey: int) -> DescribedTile:
        pixels = np.full((TILE, TILE, 3), grey, dtype=np.uint8)
        histogram = photo_features.colour_histogram(pixels)
        return DescribedTile(make_tile(tile_id, pixels, photo_id=photo_id), 0, sharpness, histogram)

    items = [
        described(1, 1, 5.0, 40),
        described(4, 1, 9.0, 60),  # as sharp as tile 2, which was cut earlier
        described(2, 1, 9.0, 80),
        described(3, 2, 1.0, 120),
    ]
    photo_files.save_catalog(iter(items), tmp_path / "out.db", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as sheet:
        shown = {colour for count, colour in sheet.getcolors(2**16) or [] if count >= TILE * TILE}
    assert {(80, 80, 80), (120, 120, 120)} <= shown
    assert not {(40, 40, 40), (60, 60, 60)} & shown


def test_sink_commits_nothing_if_the_pipeline_fails(tmp_path: Path) -> None:
    def items() -> Iterator[DescribedTile]:
        yield from described_tiles(seed=3, count=5, photos=2)
        raise ValueError("upstream")

    with pytest.raises(ValueError, match="upstream"):
        photo_files.save_catalog(items(), tmp_path / "out.db", tmp_path / "out.png")
    assert photo_files.read_rows(tmp_path / "out.db")["tiles"] == []
    assert not (tmp_path / "out.png").exists()


# The pipeline


def test_rows_are_the_same_however_the_steps_are_run(parallelism: Parallelism, folder: Path, tmp_path: Path) -> None:
    expected = chain(folder, tmp_path / "chained.db", tmp_path / "chained.png")
    database, contact_sheet = tmp_path / "out.db", tmp_path / "out.png"
    tasks = photo_catalog.build_tasks(photos_of(folder), database, contact_sheet, stride=40, procs=2, way=parallelism)
    execute(tasks, parallelism=parallelism)
    assert photo_files.read_rows(database) == expected
    assert contact_sheet.read_bytes() == (tmp_path / "chained.png").read_bytes()


def test_error_of_the_source_reaches_the_caller_as_itself(
    parallelism: Parallelism, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.jpg").write_bytes(b"not a picture")
    tasks = photo_catalog.build_tasks(
        photos_of(folder), tmp_path / "out.db", tmp_path / "out.png", stride=40, procs=2, way=parallelism
    )
    with pytest.raises(CatalogError, match=r"broken\.jpg: cannot be read as a picture"):
        execute(tasks, parallelism=parallelism)


# The program, as it is run from a shell


def run_program(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / "photo_catalog.py", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


Program: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """The program in this process, which has its packages already: for what does not depend on how it is started."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        words = list(map(str, arguments))
        exit_code = photo_catalog.main(words)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, exit_code, printed.out, printed.err)

    monkeypatch.chdir(cwd)
    return run


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """An empty current directory for the program."""
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


def test_program_runs_both_ways_compares_them_and_writes_both_files(folder: Path, cwd: Path) -> None:
    finished = run_program(folder, "--stride", "40", cwd=cwd)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "the rows of both databases are the same" in finished.stdout
    assert "times as fast" in finished.stdout
    assert "4 photographs" in finished.stdout
    assert "in a.png and b/copy.jpg" in finished.stdout
    assert sorted(path.name for path in cwd.iterdir()) == ["photo_catalog.db", "photo_catalog.png"]
    assert photo_files.read_rows(cwd / "photo_catalog.db") == rows_by_hand(folder, cwd)


@pytest.mark.thorough_where("pure")  # test_rows_are_the_same_however_the_steps_are_run has both cores
def test_program_writes_the_same_rows_every_way_with_either_core(parallelism: str, folder: Path, cwd: Path) -> None:
    finished = run_program(folder, "--stride", "40", "--parallelism", parallelism, cwd=cwd)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert photo_files.read_rows(cwd / "photo_catalog.db") == rows_by_hand(folder, cwd)


def test_program_replaces_its_own_database(folder: Path, cwd: Path, program: Program) -> None:
    for stride in ("60", "40"):
        finished = program(folder, "--stride", stride, "--parallelism", "sequential")
        assert (finished.returncode, finished.stderr) == (0, "")
    assert photo_files.read_rows(cwd / "photo_catalog.db") == rows_by_hand(folder, cwd)


def test_program_writes_nothing_if_the_two_ways_disagree(
    folder: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute_wrongly(tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism) -> None:
        source = replace(tasks[0], constants={**(tasks[0].constants or {}), "stride": 41})
        execute([source, *tasks[1:]] if parallelism == "process" else tasks, parallelism=parallelism)

    monkeypatch.chdir(cwd)
    monkeypatch.setattr(photo_catalog, "execute", execute_wrongly)
    assert photo_catalog.main([str(folder), "--stride", "40"]) == 1
    assert capsys.readouterr().err.startswith("photo_catalog: photo_catalog.db: was not written, because the two runs")
    assert snapshot(cwd) == {}


def test_program_does_not_replace_a_database_that_was_locked_while_it_worked(
    folder: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--parallelism", "sequential"]
    monkeypatch.chdir(cwd)
    assert photo_catalog.main(arguments) == 0
    before = snapshot(cwd)
    with closing(sqlite3.connect("photo_catalog.db", isolation_level=None)) as connection:

        def execute_while_another_program_begins(tasks: list[PipelineTask[Any, Any]], parallelism: Parallelism) -> None:
            execute(tasks, parallelism=parallelism)
            connection.execute("BEGIN IMMEDIATE")

        monkeypatch.setattr(photo_catalog, "execute", execute_while_another_program_begins)
        assert photo_catalog.main(arguments) == 1
        connection.execute("ROLLBACK")
    assert "photo_catalog.db: cannot be replaced (database is locked)" in capsys.readouterr().err
    assert snapshot(cwd) == before


def assert_refused(finished: subprocess.CompletedProcess[str], name: str | Path, *reasons: str) -> None:
    """Exit code 1, and on stderr one line that names the file and each of the reasons."""
    assert finished.returncode == 1
    line = finished.stderr.removesuffix("\n")
    assert line.startswith(f"photo_catalog: {name}: "), finished.stderr
    assert "\n" not in line
    for reason in reasons:
        assert reason in line


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def test_missing_folder_is_refused(cwd: Path, program: Program) -> None:
    assert_refused(program("nowhere"), "nowhere", "no such folder", "name a folder")
    assert snapshot(cwd) == {}


def test_file_in_place_of_a_folder_is_refused(folder: Path, program: Program) -> None:
    assert_refused(program(folder / "a.png"), folder / "a.png", "not a folder")


def test_folder_without_pictures_is_refused(tmp_path: Path, cwd: Path, program: Program) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    assert_refused(program(tmp_path / "texts"), tmp_path / "texts", "no pictures", ".jpg")
    assert snapshot(cwd) == {}


def truncate(path: Path) -> None:
    grainy(scene(13, 300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


SPOIL: dict[str, Callable[[Path], object]] = {"text": lambda path: path.write_text("text"), "truncated": truncate}


@pytest.mark.thorough_where("pure")
@pytest.mark.thorough_where("truncated", "process-spawn")
@pytest.mark.thorough_where("truncated", "process-forkserver")
@pytest.mark.parametrize("spoilt", SPOIL)
def test_unreadable_picture_is_refused_and_leaves_nothing(
    spoilt: str, parallelism: str, folder: Path, cwd: Path
) -> None:
    SPOIL[spoilt](folder / "z.png")
    finished = run_program(folder, "--parallelism", parallelism, cwd=cwd)
    assert_refused(finished, (folder / "z.png").as_posix(), "cannot be read as a picture", "take it out")
    assert snapshot(cwd) == {}


def test_unreadable_picture_leaves_an_earlier_catalogue_as_it_was(folder: Path, cwd: Path, program: Program) -> None:
    assert program(folder, "--parallelism", "sequential").returncode == 0
    before = snapshot(cwd)
    (folder / "z.jpg").write_text("no picture")
    assert_refused(program(folder), (folder / "z.jpg").as_posix(), "cannot be read")
    assert snapshot(cwd) == before


def test_locked_database_is_refused_before_the_work_and_left_as_it_was(
    folder: Path, cwd: Path, program: Program
) -> None:
    assert program(folder, "--parallelism", "sequential").returncode == 0
    before = snapshot(cwd)
    with closing(sqlite3.connect(cwd / "photo_catalog.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        finished = program(folder)
        connection.execute("ROLLBACK")
    assert_refused(finished, "photo_catalog.db", "locked", "close the program")
    assert finished.stdout == ""
    assert snapshot(cwd) == before


def test_read_only_database_is_refused_even_for_root(folder: Path, cwd: Path, program: Program) -> None:
    assert program(folder, "--parallelism", "sequential").returncode == 0
    before = snapshot(cwd)
    (cwd / "photo_catalog.db").chmod(0o444)
    finished = program(folder)
    (cwd / "photo_catalog.db").chmod(0o644)
    assert_refused(finished, "photo_catalog.db", "read-only", "--database")
    assert snapshot(cwd) == before


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (id INTEGER)")
        connection.commit()


@pytest.mark.parametrize(
    "prepare", [lambda path: path.write_text("a letter"), other_database], ids=["text", "database"]
)
def test_a_file_of_another_program_is_never_replaced(
    prepare: Callable[[Path], object], folder: Path, cwd: Path, program: Program
) -> None:
    prepare(cwd / "mine.db")
    before = snapshot(cwd)
    finished = program(folder, "--database", "mine.db")
    assert_refused(finished, "mine.db", "not a photo catalogue", "--database")
    assert snapshot(cwd) == before


@pytest.mark.parametrize("option", ["--database", "--contact-sheet"])
def test_output_in_a_missing_folder_is_refused(option: str, folder: Path, cwd: Path, program: Program) -> None:
    target = Path("nowhere") / "out.file"
    assert_refused(program(folder, option, target), target, "folder does not exist", option)
    assert snapshot(cwd) == {}


@pytest.mark.parametrize("option", ["--database", "--contact-sheet"])
def test_output_that_is_a_folder_is_refused(option: str, folder: Path, cwd: Path, program: Program) -> None:
    (cwd / "here").mkdir()
    assert_refused(program(folder, option, "here"), "here", "is a folder", option)


def test_one_path_for_both_outputs_is_refused(folder: Path, cwd: Path, program: Program) -> None:
    finished = program(folder, "--database", "same", "--contact-sheet", "same")
    assert_refused(finished, "same", "both outputs")
    assert snapshot(cwd) == {}
