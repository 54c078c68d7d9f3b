"""Write docs/coverage.md from the results of the sweep, of the long networks and of the comparison."""

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torchvision
import zoo_plot
from zoo_catalogue import Entry
from zoo_results import Results
from zoo_worker import fingerprint

Row = dict[str, Any]
Rows = Mapping[str, Row]

INTRODUCTION = """# Coverage of the zoo

Every architecture of timm and every float architecture of torchvision (of detectors the backbone), traced with
`surgeon.trace`, and every network of at most 100 million parameters proven: in float64, with random weights, BatchNorm
scales, shifts and statistics, all groups are permuted at once and the outputs may differ by less than 1e-9
(relative L2 distance); then one member alone is permuted and the outputs must change. Larger networks are traced on
the meta device. Images are as small as the network takes (from 96 × 96), two a batch. Seconds are processor time of
one thread for `surgeon.trace`, with everything in it.

Channels are output channels of convolutions and linear layers. The network's outputs (classifiers, the maps that a
backbone hands out) and layers that the forward pass never uses do not count, nor do layers with a single output
channel. A layer that is called several times counts once.

A convolution that runs over the channels themselves (ECA) fixes their order, and with it that of every channel that
is added to them: none of these can change places. The row on convolutional families counts them as not free; the row
below it leaves them out. A rotary position embedding turns every pair of a head's query and key channels at a speed of
its own, and fixes them in the same way; the row below that on transformers leaves these out. On the meta device the
values of buffers are unknown, so some channels count as fixed there that are free in the network at hand (BEiT's
`k_bias`, all zeros).

`python benchmarks/zoo.py` makes this page; the marked networks of `pytest -m zoo` are the same proof as a test.
"""

CONVOLUTION_GOAL = 0.99
LINEAR_GOAL = 0.95
MEDIAN_GOAL = 1.0
LONGEST_GOAL = 20.0
REASONS_SHOWN = 40
OVER_CHANNELS = "aten.conv1d fixes the positions."
AFTER_OVER_CHANNELS = "they meet positions in a sequence."
ROTARY = ("the sines and cosines of a rotary position embedding.", "(rope.pos_embed).")


def write(entries: Sequence[Entry], results: Results, folder: Path, report: Path) -> None:
    """Write the report, and the plot of time against size beside it.

    Args:
        entries: the architectures that there are.
        results: results of the sweep.
        folder: where the results of the long networks and of the comparison lie.
        report: file to write.
    """
    names = {entry.name for entry in entries}
    rows = {name: row for name, row in results.rows().items() if name in names}
    synthetic = Results(folder / "synthetic.jsonl").rows()
    peers = Results(folder / "peers.jsonl").rows()
    picture = report.with_name("coverage-time.svg")
    zoo_plot.write(_times(rows.values()), _synthetic_times(synthetic), picture)
    sections = [
        INTRODUCTION,
        _versions(),
        _totals(entries, rows),
        _failures(rows.values()),
        _below_goals(rows.values()),
        _time(rows.values(), synthetic, picture.name),
        _families(rows.values()),
        _reasons(rows.values()),
        _peers(peers, len({entry.family for entry in entries})),
    ]
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(section for section in sections if section))


def _versions() -> str:
    versions = {"torch": torch.__version__, "timm": timm.__version__, "torchvision": torchvision.__version__}
    listed = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in versions.items())
    return f"Measured with Python {platform.python_version()}, {listed}.\n"


def _totals(entries: Sequence[Entry], rows: Rows) -> str:
    found = list(rows.values())
    status = Counter(row["status"] for row in found)
    traced = [row for row in found if "groups" in row]
    seconds = [row["seconds"] for row in traced] or [0.0]
    failed_proofs = [row for row in found if row["status"] == "failed" and "difference" in row]
    differences = [row["difference"] for row in found if row["status"] == "proven"] or [0.0]
    conv_families, linear_families = _by_kind(traced)
    body = [
        ("architectures", "all", f"{len(found)} of {len(entries)} ({status['failed']} failed)"),
        ("measured with the present tracer", "all", f"{_present(found)} of {len(found)}"),
        ("traced", "every one", f"{len(traced)} of {len(found)}"),
        ("proven", "every one up to 100 M parameters", f"{status['proven']}, and {status['traced only']} traced only"),
        ("proofs that fail", "0", str(len(failed_proofs))),
        ("largest difference of a proof", "< 1e-9", f"{max(differences):.1e}"),
        ("convolution channels free, convolutional families", "≥ 99 %", _share(conv_families, "convolution")),
        (
            "– without those whose order a convolution over channels fixes",
            "≥ 99 %",
            _share_without_order(conv_families),
        ),
        ("linear channels free, transformer families", "≥ 95 %", _share(linear_families, "linear")),
        (
            "– without those that a rotary position embedding fixes",
            "≥ 95 %",
            _share_without_rotation(linear_families),
        ),
        ("median seconds", "≤ 1", f"{median(seconds):.2f}"),
        ("longest seconds", "≤ 20", f"{max(seconds):.2f}"),
        ("median share of torch.export in them", "", f"{_export_share(traced):.0%}"),
        ("median of wall clock over processor time, 1 on an idle machine", "", f"{_load(traced):.1f}"),
    ]
    return "## Against the goals\n\n" + _table(("", "goal", "result"), body)


def _present(rows: Iterable[Row]) -> int:
    """Return how many results are of the tracer as it is now; the others are of an earlier state of its source."""
    tracer = fingerprint()
    return sum(row.get("tracer") == tracer for row in rows)


def _load(rows: Iterable[Row]) -> float:
    return median([row["wall"] / row["seconds"] for row in rows if row["seconds"] > 0] or [1.0])


def _export_share(rows: Iterable[Row]) -> float:
    return median([row["export_seconds"] / row["seconds"] for row in rows if "export_seconds" in row] or [0.0])


def _by_kind(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of convolutional families and those of transformers: whichever channels a family has more of."""
    convolutional: list[Row] = []
    transformers: list[Row] = []
    for group in _grouped(rows).values():
        more_linear = sum(row["linear"][1] for row in group) > sum(row["convolution"][1] for row in group)
        (transformers if more_linear else convolutional).extend(group)
    return convolutional, transformers


def _failures(rows: Iterable[Row]) -> str:
    failed = [row for row in rows if row["status"] == "failed"]
    if not failed:
        return "## Failures\n\nNone.\n"
    body = [(f"`{row['name']}`", _millions(row), row["message"].replace("|", "\\|")) for row in failed]
    return "## Failures\n\n" + _table(("architecture", "parameters", "what happened"), body)


def _below_goals(rows: Iterable[Row]) -> str:
    body = []
    for family, group in _grouped(row for row in rows if "groups" in row).items():
        convolutional, transformers = _by_kind(group)
        for kind, goal, chosen in (
            ("convolution", CONVOLUTION_GOAL, convolutional),
            ("linear", LINEAR_GOAL, transformers),
        ):
            free, counted = _counts(chosen, kind)
            if counted and free / counted < goal:
                body.append((family, kind, _share(chosen, kind), _top_reason(chosen)))
    if not body:
        return "## Families below the goals\n\nNone.\n"
    return "## Families below the goals\n\n" + _table(("family", "layers", "free", "most frequent reason"), body)


def _time(rows: Iterable[Row], synthetic: Rows, picture: str) -> str:
    bins: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for operations, seconds in _times(rows):
        bins[max(0, operations - 1).bit_length()].append((operations, seconds))
    body = [
        (
            f"{2 ** (power - 1) + 1:,} to {2**power:,}" if power else "1",
            str(len(points)),
            f"{median(seconds for _, seconds in points):.2f}",
            f"{max(seconds for _, seconds in points):.2f}",
            f"{1000 * sum(seconds for _, seconds in points) / sum(operations for operations, _ in points):.2f}",
        )
        for power, points in sorted(bins.items())
    ]
    header = ("operations", "architectures", "median s", "longest s", "ms an operation")
    text = f"## Time against size\n\n![Seconds against operations]({picture})\n\n" + _table(header, body)
    if synthetic:
        long_body = [
            (
                name,
                f"{row['all_ops']:,}",
                f"{row['inputs']:,}",
                f"{row['seconds']:.2f}",
                f"{1000 * row['seconds'] / row['inputs']:.2f}",
                f"{row['difference']:.1e}" if row["holds"] else "does not hold",
            )
            for name, row in synthetic.items()
        ]
        long_header = ("network", "operations", "tensors they read", "s", "ms a tensor", "difference of the proof")
        text += (
            "\nA concatenation is one operation that reads many tensors, so the long networks count what is read.\n\n"
        )
        text += _table(long_header, long_body)
    return text


def _families(rows: Iterable[Row]) -> str:
    body = []
    for family, group in sorted(_grouped(rows).items()):
        status = Counter(row["status"] for row in group)
        traced = [row for row in group if "groups" in row]
        seconds = [row["seconds"] for row in traced] or [0.0]
        body.append(
            (
                family,
                f"{len(traced)} of {len(group)}",
                str(status["proven"]),
                str(status["traced only"]),
                str(status["failed"]),
                _share(traced, "convolution"),
                _share(traced, "linear"),
                f"{median(seconds):.2f}",
                f"{max(seconds):.2f}",
                _top_reason(traced),
            )
        )
    header = (
        "family", "traced", "proven", "traced only", "failed", "convolution free", "linear free", "median s",
        "longest s", "why the rest is not",
    )  # fmt: skip
    return "## Families\n\n" + _table(header, body)


def _reasons(rows: Iterable[Row]) -> str:
    channels: Counter[str] = Counter()
    networks: Counter[str] = Counter()
    for row in rows:
        channels.update(row.get("reasons", {}))
        networks.update(row.get("reasons", {}).keys())
    body = [(reason, f"{count:,}", str(networks[reason])) for reason, count in channels.most_common(REASONS_SHOWN)]
    rest = len(channels) - len(body)
    note = f"\n{rest} rarer reasons are left out.\n" if rest else ""
    return "## Why channels are frozen\n\n" + _table(("reason", "channels", "architectures"), body) + note


def _peers(peers: Rows, families: int) -> str:
    if not peers:
        return ""
    found = list(peers.values())
    counts = {key: sum(bool(row[key]) for row in found) for key in ("builds", "prunes", "runs", "traces", "proves")}
    both = [row for row in found if row["builds"] and row["traces"]]
    text = (
        "## Beside Torch-Pruning\n\n"
        f"The smallest architecture of {len(found)} of the {families} families, the same network and image size for "
        "both. Torch-Pruning has at most 60 s of processor time; its base pruner with its default settings, told which "
        "layer classifies, removes a quarter of the channels once; then the network is run.\n\n"
        f"- Torch-Pruning builds {counts['builds']}, prunes {counts['prunes']}, "
        f"and {counts['runs']} networks run afterwards.\n"
        f"- surgeon traces {counts['traces']} and proves {counts['proves']}.\n"
    )
    if both:
        text += (
            f"- Median seconds where both build: Torch-Pruning {median(row['seconds'] for row in both):.2f}, "
            f"surgeon {median(row['surgeon_seconds'] for row in both):.2f}.\n"
        )
    body = [
        (
            row["family"],
            f"`{row['name']}`",
            _yes(row["builds"]),
            _yes(row["runs"]),
            f"{row['seconds']:.2f}" if "seconds" in row else "–",
            _yes(row["proves"]),
            f"{row['surgeon_seconds']:.2f}" if "surgeon_seconds" in row else "–",
            row["message"].replace("|", "\\|")[:160],
        )
        for row in sorted(found, key=lambda row: row["family"])
    ]
    header = (
        "family", "architecture", "Torch-Pruning builds", "runs after pruning", "s", "surgeon proves", "s",
        "what Torch-Pruning says",
    )  # fmt: skip
    return text + "\n" + _table(header, body)


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["family"]].append(row)
    return dict(groups)


def _counts(rows: Iterable[Row], kind: str) -> tuple[int, int]:
    pairs = [row[kind] for row in rows]
    return sum(free for free, _ in pairs), sum(counted for _, counted in pairs)


def _share(rows: Iterable[Row], kind: str) -> str:
    free, counted = _counts(rows, kind)
    if not counted:
        return "–"
    # Rounded down, so that 100 % means every single channel.
    return f"{int(10000 * free / counted) / 100:.2f} %"


def _share_without_order(rows: Iterable[Row]) -> str:
    """Return the free share of the convolution channels whose order no convolution over channels (ECA) fixes."""
    return _share([row | {"convolution": _counts_without_order(row)} for row in rows], "convolution")


def _counts_without_order(row: Row) -> tuple[int, int]:
    free, counted = row["convolution"]
    reasons = {text: text.split(" + ") for text in row["reasons"]}
    # Positions in a sequence are those of the convolution over channels only where there is one.
    if not any(part.endswith(OVER_CHANNELS) for parts in reasons.values() for part in parts):
        return free, counted
    kinds = (OVER_CHANNELS, AFTER_OVER_CHANNELS)
    fixed = sum(row["reasons"][text] for text, parts in reasons.items() if all(part.endswith(kinds) for part in parts))
    return free, max(free, counted - fixed)


def _share_without_rotation(rows: Iterable[Row]) -> str:
    """Return the free share of the linear channels that no rotary position embedding fixes."""
    return _share([row | {"linear": _counts_without_rotation(row)} for row in rows], "linear")


def _counts_without_rotation(row: Row) -> tuple[int, int]:
    free, counted = row["linear"]
    # Whatever else is said of such a channel, the rotation alone would fix it.
    fixed = sum(n for text, n in row["reasons"].items() if any(part.endswith(ROTARY) for part in text.split(" + ")))
    return free, max(free, counted - fixed)


def _top_reason(rows: Iterable[Row]) -> str:
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(row.get("reasons", {}))
    return "; ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common(2))


def _times(rows: Iterable[Row]) -> list[tuple[int, float]]:
    return [(row["all_ops"], row["seconds"]) for row in rows if "all_ops" in row]


def _synthetic_times(rows: Rows) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name, row in rows.items():
        series[name.partition(" of ")[0]].append((row["all_ops"], row["seconds"]))
    return dict(series)


def _millions(row: Row) -> str:
    return f"{row['parameters'] / 1e6:.1f} M"


def _yes(answer: object) -> str:
    return "yes" if answer else "no"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
