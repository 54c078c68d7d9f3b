"""What `surgeon diff` shows: sentences first, then a row for every tensor that differs."""

from collections.abc import Sequence

from rich.table import Table

from surgeon.checkpoint.display import listed, shown
from surgeon.cli.render import OUT, print_whole, say
from surgeon.operate.diff import Diff, File
from surgeon.operate.differences import Sides, TensorDifference

NOTHING = "–"
LONGEST_RANGES = 40
"""Characters that a table shows of which channels differ; `--json` has all of them."""


def show(found: Diff) -> None:
    """Print what two checkpoints differ in."""
    for note in (*found.first.notes, *found.second.notes):
        say(note)
    for letter, file in (("A", found.first), ("B", found.second)):
        _line(f"{letter}: {shown(file.path)}  {file.sha256[:12]}  {_architecture(file)}")
    for sentence in summary(found):
        _line(sentence)
    permutation = found.permutation
    if permutation is not None and permutation.groups:
        table = Table(title="Groups with another order of channels", title_justify="left")
        table.add_column("group", overflow="fold")
        table.add_column("channels", justify="right")
        table.add_column("moved", justify="right")
        for group in permutation.groups:
            table.add_row(shown(group.group), f"{group.size:,}", f"{group.moved:,}")
        print_whole(table, OUT)
        _tensors("Tensors that differ after reordering", permutation.tensors)
    else:
        _tensors("Tensors that differ", found.found.tensors)
    _sides("Batch counters that differ", found.found.counters)
    _sides("Tensors of different shape", found.found.shapes)
    _sides("Tensors of different type", found.found.dtypes)
    _sides("Entries of the headers that differ", found.metadata)


def summary(found: Diff) -> list[str]:
    """Return in sentences what the second checkpoint is to the first."""
    if found.same:
        return ["B holds the same tensors as A, with the same values."]
    sentences = [_comparison(found)]
    permutation = found.permutation
    if permutation is not None and permutation.closest is not None:
        sentences.append(
            f"In the closest order of channels that was found the relative L2 distance is {permutation.closest:.3g}; "
            "networks with nothing in common can come as close."
        )
    elif permutation is not None and not permutation.groups:
        groups = counted(permutation.groups_searched, "group")
        sentences.append(f"No other order of the channels of {groups} was found that brings B notably closer to A.")
    if found.not_searched is not None:
        sentences.append(f"Permutations of channels were not looked for. {found.not_searched}")
    for what, names in (("A", found.found.only_in_first), ("B", found.found.only_in_second)):
        if names:
            sentences.append(f"{counted(len(names), 'tensor')} in {what} alone: {listed(names)}.")
    if found.structures_differ:
        sentences.append("By their headers the layers of A and B have other sizes, or other cross-attention.")
    if found.first.architecture != found.second.architecture:
        sentences.append(
            f"The architecture of A is {_architecture(found.first)}, that of B {_architecture(found.second)}."
        )
    return sentences


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _comparison(found: Diff) -> str:
    compared = len(found.found.tensors) + found.found.equal
    tensors = f"{counted(compared, 'tensor')} that both hold in the same shape"
    if not found.found.tensors:
        return f"None of {tensors} differs in its values."
    differ = f"{len(found.found.tensors):,} of {tensors} differ{_distance(found.found.relative)}."
    permutation = found.permutation
    if permutation is None or not permutation.groups:
        return differ
    groups = counted(len(permutation.groups), "group")
    moved = counted(sum(group.moved for group in permutation.groups), "channel")
    if permutation.exact:
        rest = "otherwise the same" if _is_only_reordered(found) else "and the same in every value that can be compared"
        return f"B is A with the channels of {groups} reordered ({moved} moved), {rest}."
    left = f"{len(permutation.tensors):,} still differ{_distance(permutation.relative)}"
    return f"{differ} With the channels of {groups} reordered ({moved} moved), {left}."


def _is_only_reordered(found: Diff) -> bool:
    other = found.found
    return not (other.counters or other.shapes or other.dtypes or other.only_in_first or other.only_in_second)


def _distance(relative: float | None) -> str:
    return "" if relative is None else f" (relative L2 distance {relative:.3g})"


def _architecture(file: File) -> str:
    return "unknown" if file.architecture is None else shown(file.architecture)


def _line(text: str) -> None:
    OUT.print(text, highlight=False, soft_wrap=True)


def _tensors(title: str, tensors: Sequence[TensorDifference]) -> None:
    if not tensors:
        return
    table = Table(title=title, title_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", overflow="fold")
    for heading in ("relative L2", "largest", "values"):
        table.add_column(heading, justify="right")
    table.add_column("where", overflow="fold")
    for tensor in tensors:
        table.add_row(
            shown(tensor.name),
            "×".join(map(str, tensor.shape)) or NOTHING,
            _number(tensor.relative),
            _number(tensor.largest),
            f"{tensor.values:,}" + (f"\n({tensor.not_finite:,} not finite)" if tensor.not_finite else ""),
            "\n".join(_where(tensor)),
        )
    print_whole(table, OUT)


def _where(tensor: TensorDifference) -> list[str]:
    lines = [
        f"axis {one.dim}, {shown(one.group)}: {_share(one.channels, one.size, one.which)}"
        for one in tensor.channels
        if one.channels
    ]
    if lines or not tensor.shape:
        return lines
    return [f"axis 0: {_share(tensor.rows, tensor.shape[0], tensor.which)}"]


def _share(number: int, size: int, which: str) -> str:
    if number == size:
        return f"all {size:,}"
    return f"{number:,} of {size:,} ({which if len(which) <= LONGEST_RANGES else which[: LONGEST_RANGES - 1] + '…'})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _sides(title: str, sides: Sequence[Sides]) -> None:
    if not sides:
        return
    table = Table(title=title, title_justify="left")
    for heading in ("", "A", "B"):
        table.add_column(heading, overflow="fold")
    for one in sides:
        table.add_row(*(shown(text) or NOTHING for text in (one.name, one.first, one.second)))
    print_whole(table, OUT)
