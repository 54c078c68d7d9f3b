"""What `surgeon` does about hostile files and broken runs: how many were tried, and what came of them.

Every file is read by one watched process, and has to end in a sentence of ours or in the stated success, within 5 s of
work and 300 MiB above an idle process and the file's size, with nothing executed and nothing written.

    python benchmarks/faults.py
    python benchmarks/faults.py --files [--only TEXT]… [--seed 0] [--mutations 40] [--examples 2000]
    python benchmarks/faults.py --runs

Without a part all of them are tried. It prints a line a kind (tried, refused, read, slowest, most memory) and every
demand that is not met, and leaves with 1 where there is one, with 2 where no file is called what `--only` says.
`--examples` says how many headers and pickles are made up besides by hypothesis, without `--only`; 0 for none. Runs
that are killed, out of disk and so on are the business of `faults_runs.py`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hostile"))
from hostile_files import MUTATIONS, SEED, all_cases
from watched import Verdict, Watch

ROOT = Path(__file__).resolve().parents[1]


def files(arguments: argparse.Namespace) -> bool:
    """Have every hostile file read, print what came of them, and return whether every demand is met."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        with Watch(Path(folder) / "work", canary) as watch:
            for case in all_cases(canary, arguments.seed, arguments.mutations):
                if not arguments.only or any(text in case.title for text in arguments.only):
                    kinds[case.kind].append(watch.read(case))
    if not kinds:
        print(f"No file has a title with {' or '.join(map(repr, arguments.only))} in it.", file=sys.stderr)
        raise SystemExit(2)
    everything = [verdict for verdicts in kinds.values() for verdict in verdicts]
    print(f"{'kind':22} {'tried':>6} {'refused':>8} {'read':>6} {'slowest':>9} {'memory':>9} {'faults':>7}")
    for kind, verdicts in [*kinds.items(), ("all", everything)]:
        print(_line(kind, verdicts), flush=True)
    for verdict in everything:
        for fault in verdict.faults:
            print(f"FAULT {verdict.case.title}: {fault}")
    fuzzed = arguments.only or not arguments.examples or _fuzz(arguments.examples)
    return bool(fuzzed) and not any(verdict.faults for verdict in everything)


def _line(kind: str, verdicts: list[Verdict]) -> str:
    refused, read = (sum(verdict.outcome == outcome for verdict in verdicts) for outcome in ("refused", "read"))
    slowest = max((verdict.seconds for verdict in verdicts), default=0)
    memory = max((verdict.mebibytes for verdict in verdicts), default=0)
    faults = sum(bool(verdict.faults) for verdict in verdicts)
    return f"{kind:22} {len(verdicts):6} {refused:8} {read:6} {slowest:7.2f} s {memory:5.0f} MiB {faults:7}"


def _fuzz(examples: int) -> bool:
    """Make up headers, directories and pickles at length, and return whether each ends as it should."""
    tests = ROOT / "tests" / "hostile" / "test_hostile_fuzz.py"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", str(tests)]
    environment = os.environ | {"SURGEON_FUZZ_EXAMPLES": str(examples)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(f"hypothesis, {examples} examples each: {done.stdout.strip().splitlines()[-1]}")
    return done.returncode == 0


def runs(arguments: argparse.Namespace) -> bool:
    """Kill and starve runs, as `faults_runs.py` says, and return whether every demand is met."""
    command = [sys.executable, str(ROOT / "benchmarks" / "faults_runs.py"), "--seed", str(arguments.seed)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


EXAMPLES = 2000

PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {"files": files, "runs": runs}
"""What can be tried, by the name of its option."""


def main() -> int:
    """Read the arguments, try what they name, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=(part.__doc__ or "").split(",")[0])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="files whose title has this")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--mutations", type=int, default=MUTATIONS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    arguments = parser.parse_args()
    chosen = [part for name, part in PARTS.items() if getattr(arguments, name)]
    met = [part(arguments) for part in chosen or PARTS.values()]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
