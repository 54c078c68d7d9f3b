"""How long `surgeon` takes to start, and to inspect ResNet-50, against building the network alone.

Measured, each in fresh processes that take turns:
- `python -m surgeon --help`: seconds, and whether torch or timm were imported. Goal: under 0.3 s and neither.
- `python -m surgeon inspect --arch resnet50`, against `python -c "import torch, timm; timm.create_model('resnet50')"`:
  the difference of the medians. Goal: at most 2 s.

    python benchmarks/startup.py [--repetitions 5]
"""

import argparse
import functools
import re
import statistics
import subprocess
import sys

from interleaved import interleaved, spread

HELP = ("-m", "surgeon", "--help")
INSPECT = ("-m", "surgeon", "inspect", "--arch", "resnet50")
BUILD = ("-c", "import torch, timm; timm.create_model('resnet50')")
HEAVY = ("torch", "timm")


def run(arguments: tuple[str, ...]) -> str:
    """Run this Python with the arguments and give what it wrote to stderr; leave with the message if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} left with {done.returncode}:\n{done.stderr}")
    return done.stderr


def imported(arguments: tuple[str, ...]) -> set[str]:
    """Tell which of the heavy packages the process imports."""
    names = re.findall(r"^import time:.*\|\s*(\S+)$", run(("-X", "importtime", *arguments)), flags=re.MULTILINE)
    return set(HEAVY) & set(names)


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions

    commands = {"help": HELP, "inspect": INSPECT, "build": BUILD}
    seconds = interleaved({name: functools.partial(run, command) for name, command in commands.items()}, repetitions)
    heavy = " and ".join(sorted(imported(HELP))) or "neither torch nor timm"
    print(f"surgeon --help: {spread(seconds['help'])} s, imports {heavy}")
    print(f"surgeon inspect --arch resnet50: {spread(seconds['inspect'])} s")
    print(f"import torch and timm, build resnet50: {spread(seconds['build'])} s")
    above = statistics.median(seconds["inspect"]) - statistics.median(seconds["build"])
    print(f"inspect takes {above:.3f} s more than the network alone")


if __name__ == "__main__":
    main()
