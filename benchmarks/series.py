"""A series of training runs that is shared among processes, can be interrupted, and ends in a table."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cifar10 import rows_of
from decoded import decoded

from surgeon.data import ImageConfig

Key = tuple[Any, ...]
Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser, arms: Sequence[str], results: Path) -> None:
    """Add the options that every series has.

    Args:
        parser: of the command line.
        arms: names of the ways to train.
        results: where the runs' lines go by default.
    """
    shared = results.parents[2].parent / "shared/data"
    parser.add_argument("--data", default=shared / "cifar10", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=list(arms), metavar="ARM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="1/1", help="do every n-th run, from the i-th on: i/n")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", default=results, type=Path)
    parser.add_argument("--report", type=Path, help="write a Markdown table here")


def finish_series(
    options: argparse.Namespace,
    keys: Sequence[Key],
    config: Callable[[], ImageConfig],
    run: Callable[[Key, dict[str, Any]], Row],
    report: Callable[[list[Row]], str],
) -> None:
    """Do the runs that are missing, each as a line of the results, and print the report once all are there.

    Args:
        options: with those of `add_options`, and `images`, how many to train on.
        keys: what tells each run from the others; plain values.
        config: how the network takes its images.
        run: does one run, given its key and the loaders of `decoded`.
        report: makes a table of all runs' lines.
    """
    torch.set_num_threads(options.threads)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    first, of = (int(text) for text in options.part.split("/"))
    data: dict[str, Any] = {}
    for key in keys[first - 1 :: of]:
        if key in _done(options):
            continue
        data = data or decoded(options.data, config(), options.images)
        row = {"key": list(key), **run(key, data)}
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    done = _done(options)
    missing = sum(key not in done for key in keys)
    if missing:
        print(f"{missing} of {len(keys)} runs are not there yet.")
        return
    text = report([done[key] for key in keys])
    print(text)
    if options.report:
        options.report.write_text(text)


def _done(options: argparse.Namespace) -> dict[Key, Row]:
    return {tuple(row["key"]): row for row in rows_of(options.results)}
