"""Trace every architecture of timm and torchvision, prove the coupling graphs, and write docs/coverage.md.

python benchmarks/zoo.py                  sweep; finished architectures are skipped when it is started again
python benchmarks/zoo.py --quick          the smallest architecture of every family
python benchmarks/zoo.py --failed         those that failed, again
python benchmarks/zoo.py --rerun NAME…    these, again
python benchmarks/zoo.py --report         write docs/coverage.md from the results
python benchmarks/zoo.py --peers          compare with Torch-Pruning on the smallest of every family
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zoo_peers
import zoo_report
import zoo_synthetic
from zoo_catalogue import Entry, catalogue, smallest
from zoo_processes import Task, run_all
from zoo_results import Results
from zoo_worker import fingerprint

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORKER = HERE / "zoo_worker.py"
REPORT = HERE.parent / "docs" / "coverage.md"
TIMEOUT = 300.0
"""Seconds after which an architecture counts as failed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    options = _options().parse_args(arguments)
    results = Results(options.results)
    entries = catalogue(RESULTS / "catalogue.json", options.workers)
    if options.peers:
        zoo_peers.compare(smallest(entries), results.rows(), Results(RESULTS / "peers.jsonl"), options.workers)
    elif options.synthetic:
        zoo_synthetic.measure(Results(RESULTS / "synthetic.jsonl"))
    elif not options.report:
        sweep(_chosen(entries, results, options), results, options.workers)
    zoo_report.write(entries, results, RESULTS, REPORT)


def sweep(entries: Sequence[Entry], results: Results, workers: int) -> None:
    """Trace and prove these architectures, and append what is found to the results."""
    refused = _refused_sizes(results)
    tasks = [
        Task(entry.name, vars(entry) | {"skipped_sizes": refused.get(entry.family, [])}, entry.parameters)
        for entry in entries
    ]
    for index, (task, row, problem) in enumerate(run_all(WORKER, tasks, workers, TIMEOUT), start=1):
        row = row if row is not None else _lost(task, problem)
        results.append(row)
        _say(f"{index}/{len(tasks)} {_line(row)}")


def _chosen(entries: Sequence[Entry], results: Results, options: argparse.Namespace) -> list[Entry]:
    if options.rerun:
        return [entry for entry in entries if entry.name in options.rerun]
    if options.quick:
        entries = smallest(entries)
    rows = results.rows()
    if options.failed:
        return [entry for entry in entries if rows.get(entry.name, {}).get("status") == "failed"]
    if options.stale:
        return [entry for entry in entries if rows.get(entry.name, {}).get("tracer") != fingerprint()]
    return [entry for entry in entries if entry.name not in rows]


def _refused_sizes(results: Results) -> dict[str, list[int]]:
    """Return, for every family, the image sizes that none of its traced members takes."""
    refused: dict[str, set[int]] = {}
    for row in results.rows().values():
        if "groups" in row:
            sizes = {int(attempt.partition(":")[0]) for attempt in row["attempts"]}
            refused[row["family"]] = refused.get(row["family"], sizes) & sizes
    return {family: sorted(sizes) for family, sizes in refused.items()}


def _lost(task: Task, problem: str) -> dict[str, Any]:
    return dict(task.question) | {"status": "failed", "message": problem, "attempts": []}


def _line(row: dict[str, Any]) -> str:
    share = " ".join(f"{kind[:4]} {row[kind][0]}/{row[kind][1]}" for kind in ("convolution", "linear") if kind in row)
    return (
        f"{row['status']:11} {row['name']} {row.get('seconds', '')} s of {row.get('total_seconds', '')} s {share}"
        + (f" {row['message']}" if row["message"] else "")
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "zoo.jsonl", help="file of results, one a line")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="only the smallest architecture of every family")
    what.add_argument("--failed", action="store_true", help="only those that failed before")
    what.add_argument("--stale", action="store_true", help="those not yet tested with the present tracer")
    what.add_argument("--rerun", nargs="+", metavar="NAME", help="only these, again")
    what.add_argument("--report", action="store_true", help="only write the report")
    what.add_argument("--peers", action="store_true", help="compare with Torch-Pruning")
    what.add_argument("--synthetic", action="store_true", help="time long chains and dense concatenations")
    return parser


if __name__ == "__main__":
    main()
