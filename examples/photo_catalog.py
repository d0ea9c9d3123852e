"""Catalogue photographs in parallel: find near-duplicates and write a SQLite database and a contact sheet.

    python examples/photo_catalog.py                     the photographs in scikit-image and scikit-learn
    python examples/photo_catalog.py ~/Pictures/holiday  the pictures in any folder, and below it

There are four steps. Each is an ordinary generator, which can be called and tested without starting a process:

    cut_tiles -> describe_tiles (two replicas) -> find_neighbours -> save_catalog

By default the pipeline runs twice, first with all steps in this process and then with each step in its own processes,
and compares the times and the databases. The rows do not depend on the order in which tiles arrive: the source numbers
the tiles, the descriptions use whole-number arithmetic, and ties are decided by tile number.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

try:
    from photo_features import describe_tiles, find_neighbours
    from photo_files import check_database, check_output, folder_beside, read_rows, replace, save_catalog
    from photo_tiles import TILE, CatalogError, bundled_photos, cut_tiles, folder_photos

    from pipeline_executor import PipelineTask, execute
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"photo_catalog: the package {missing.name} is not installed; run: pip install '.[examples]'")

NEIGHBOURS = 3
"""Number of neighbours to keep for each tile."""

# Each replica gets one BLAS thread, because the replicas already use all cores. The variables take effect under spawn
# and forkserver, where the step's process imports numpy itself.
ONE_THREAD_EACH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def build_tasks(
    photos: dict[str, Path], database: Path, contact_sheet: Path, *, stride: int, procs: int, way: str
) -> list[PipelineTask[Any, Any]]:
    """Make the tasks of the pipeline. Tiles are `stride` pixels apart, and `procs` processes describe them."""
    outputs = {"database": database, "contact_sheet": contact_sheet}
    env = None if way == "sequential" else ONE_THREAD_EACH  # only a step in its own process can have an environment
    return [
        PipelineTask(cut_tiles, constants={"photos": photos, "stride": stride}),
        PipelineTask(describe_tiles, num_procs=procs, env=env),
        PipelineTask(find_neighbours, constants={"count": NEIGHBOURS}, env=env),
        PipelineTask(save_catalog, constants=outputs),
    ]


def catalogue(arguments: argparse.Namespace) -> None:
    """Check every path, run the pipeline, put the files in place and print a summary."""
    database, contact_sheet = arguments.database, arguments.contact_sheet
    if arguments.folder is None:
        photos, origin = bundled_photos(), "scikit-image and scikit-learn"
    else:
        photos, origin = folder_photos(arguments.folder, leave_out=contact_sheet), str(arguments.folder)
    check_output(database, "--database")
    check_output(contact_sheet, "--contact-sheet")
    if database.resolve() == contact_sheet.resolve():
        raise CatalogError(f"{database}: is the path of both outputs; change --database or --contact-sheet")
    check_database(database)

    ways: list[Any] = ["sequential", "process"] if arguments.parallelism == "both" else [arguments.parallelism]
    print(f"{len(photos)} photographs from {origin}, cut into tiles of {TILE} x {TILE} pixels", flush=True)
    with (
        folder_beside(database, "--database") as new_databases,
        folder_beside(contact_sheet, "--contact-sheet") as new_sheets,
    ):
        seconds, rows = [], []
        for way in ways:
            new_database, new_sheet = new_databases / f"{way}.db", new_sheets / f"{way}.png"
            tasks = build_tasks(
                photos, new_database, new_sheet, stride=arguments.stride, procs=arguments.procs, way=way
            )
            started = time.perf_counter()
            execute(tasks, parallelism=way)
            seconds.append(time.perf_counter() - started)
            rows.append(read_rows(new_database))
            print(f"  {way:20}{seconds[-1]:7.2f} s", end="" if len(seconds) == 2 else "\n", flush=True)
        if len(ways) == 2:
            print(f"  {seconds[0] / seconds[1]:.2f} times as fast", flush=True)
            if rows[0] != rows[1]:
                raise CatalogError(
                    f"{database}: was not written, because the two runs found different rows; report this"
                )
            print("  the rows of both databases are the same")
        check_database(database)  # check again, because another program may have changed it during the run
        replace(new_database, database, "--database")
        replace(new_sheet, contact_sheet, "--contact-sheet")
    print_findings(rows[-1])
    print(f"written: {database} ({database.stat().st_size:,} bytes)")
    print(f"written: {contact_sheet} ({contact_sheet.stat().st_size:,} bytes)")


def print_findings(rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Print how many photographs, tiles and duplicates there are, and which photographs share the most duplicates."""
    name_of_photo = {photo[0]: photo[1] for photo in rows["photos"]}
    name_of_tile = {tile[0]: name_of_photo[tile[1]] for tile in rows["tiles"]}
    shared: dict[tuple[str, str], int] = {}
    for first, second in rows["duplicates"]:
        pair = name_of_tile[first], name_of_tile[second]
        shared[pair] = shared.get(pair, 0) + 1
    print(
        f"{len(rows['photos'])} photographs, {len(rows['tiles']):,} tiles,"
        f" {len(rows['duplicates']):,} pairs of duplicate tiles"
    )
    for (one, other), tiles in sorted(shared.items(), key=lambda item: (-item[1], item[0]))[:5]:
        print(f"  {tiles:5} in {one} and {other}" if one != other else f"  {tiles:5} within {one}")


def positive(text: str) -> int:
    """Read the value of an option that must be at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Catalogue photographs and find near-duplicates.")
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        help="folder of pictures (default: the photographs in scikit-image and scikit-learn)",
    )
    add("--database", type=Path, default=Path("photo_catalog.db"), help="default: %(default)s")
    add("--contact-sheet", type=Path, default=Path("photo_catalog.png"), help="default: %(default)s")
    ways = ["both", "sequential", "process", "process-fork", "process-forkserver", "process-spawn"]
    add("--parallelism", choices=ways, default="both", help="both: sequential, then process (default)")
    add("--procs", type=positive, default=2, help="processes that describe tiles (default: %(default)s)")
    add("--stride", type=positive, default=48, help="pixels from tile to tile (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        catalogue(parse_arguments(argv))
    except CatalogError as error:
        print(f"photo_catalog: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
