"""`python -m benchmarks`: measure all contenders, print the table, and write it to files if asked."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.report import render
from benchmarks.run import FORMAT, run_rows
from benchmarks.table import ROWS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says, and return 0. A measurement without a result is reported with its reason."""
    options = _parser().parse_args(arguments)
    if options.list:
        _print_list()
        return 0
    if options.from_json is not None:
        found: dict[str, Any] = json.loads(options.from_json.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            sys.exit(
                f"{options.from_json} has format {found['format']}, but this version reads format {FORMAT}; "
                "measure anew with --json"
            )
    else:
        rows = [row for row in ROWS if options.rows is None or row.name in options.rows]
        found = run_rows(
            rows,
            options.contenders,
            quick=options.quick,
            rounds=options.rounds,
            max_items=options.items,
            time_limit_s=options.time_limit,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    table = render(found)
    print(table, end="")
    if options.json is not None:
        _write_json(found, options.json)
    if options.charts is not None:
        _draw(found, options.charts)
    if options.docs:
        _write_json(found, DOCS / "results.json")
        (DOCS / "results.md").write_text(_page(found, table), encoding="utf-8")
        _draw(found, DOCS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], metavar="NAME", help="only these rows")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), metavar="NAME", help="only these contenders"
    )
    parser.add_argument("--rounds", type=_at_least_one, metavar="N", help="number of rounds for every row")
    parser.add_argument("--quick", action="store_true", help="few items, one round: a minute or two")
    parser.add_argument("--items", type=_at_least_one, metavar="N", help="maximum number of items for every contender")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SECONDS", help="time limit of each measurement (default: 60)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--charts", type=Path, metavar="FOLDER", help="draw PNG and SVG files into this folder")
    parser.add_argument("--docs", action="store_true", help="write table, JSON and pictures to docs/benchmarks")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="measure nothing; read the figures from this file"
    )
    parser.add_argument("--list", action="store_true", help="list rows and contenders")
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _print_list() -> None:
    print("rows:")
    for row in ROWS:
        print(f"  {row.name:14} {row.title}")
    print("contenders:")
    for name, contender in CONTENDERS.items():
        print(f"  {name:22} {contender.title}")


def _write_json(found: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw(found: dict[str, Any], folder: Path) -> None:
    from benchmarks.charts import draw_charts

    draw_charts(found, folder)


def _page(found: dict[str, Any], table: str) -> str:
    pictures = "\n".join(
        f"![{found_row['name']}]({found_row['name']}.svg)"
        for found_row in found["rows"]
        if any(result["values"] for result in found_row["results"])
    )
    return (
        "# Results\n\nWritten by `python -m benchmarks --docs`; [README.md](README.md) says what the rows measure and "
        f"what not.\n\n```text\n{table}```\n\n{pictures}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
