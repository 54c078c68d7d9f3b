"""Plans, records and states that are not as surgeon writes them."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hostile_case import Case, laid_out, writes
from torch import Tensor

from surgeon.checkpoint.tree_file import DIGEST_KEY, TREE_KEY, digest
from surgeon.operate.stored_plan import HEADER_KEY

EDIT: dict[str, Any] = {
    "kind": "set", "tensor": "w", "blocks": "edits/0/blocks", "values": "edits/0/values", "what": "set to zero",
    "filter_size": 4, "columns": None, "block_size": 1, "held": False,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "version": 3, "method": "dsd", "options": {}, "targets": ["w"], "figures": {}, "skipped": [],
    "shapes": {"w": [4, 4]},
    "groups": [], "scalings": [], "edits": [EDIT],
}  # fmt: skip
TENSORS: dict[str, Tensor] = {"edits/0/blocks": torch.arange(4), "edits/0/values": torch.zeros(1)}
RECORD: dict[str, Any] = {
    "surgeon": "0.1.0", "method": "sofm", "options": {}, "seed": 0, "targets": ["w"], "edits": [], "epochs": [],
    "stages": [{"name": "original", "top1": 50.0}], "notes": [], "figures": {}, "skipped": [], "versions": {},
}  # fmt: skip
MILLION = 1_000_000
BAD: dict[str, Any] = {
    "a number": 1.5, "text": "\x1b[2J", "negative": -1, "beyond 64 bits": 2**70, "deep": [[[[[[[[[[[[1]]]]]]]]]]]],
    "object": {"a": {"b": 1}}, "null in a list": [None], "long": "w" * 10**6,
}  # fmt: skip


def plan_file(plan: Any, tensors: Mapping[str, Tensor] = TENSORS) -> bytes:
    """Return a file that holds a plan."""
    return laid_out(tensors, {HEADER_KEY: plan if isinstance(plan, str) else json.dumps(plan)})


def plans() -> Iterator[Case]:
    """Yield plans in which one thing is wrong."""

    def case(name: str, content: bytes, outcome: Any = "refused") -> Case:
        return Case("plan", name, writes(content), outcome, command="plan")

    yield case("sound", plan_file(PLAN), "read")
    for field in PLAN:
        rest = {name: value for name, value in PLAN.items() if name != field}
        yield case(f"without {field}", plan_file(rest))
        for name in ("a number", "deep", "null in a list"):
            yield case(f"{field} is {name}", plan_file(PLAN | {field: BAD[name]}))
    for field in EDIT:
        for name, value in BAD.items():
            yield case(f"{field} of an edit is {name}", plan_file(PLAN | {"edits": [EDIT | {field: value}]}))
    tensors: dict[str, Tensor] = {
        "NaN": torch.full((1,), torch.nan), "none": torch.zeros(0), "too many": torch.zeros(5),
        "whole": torch.arange(1),
    }  # fmt: skip
    for name, values in tensors.items():
        yield case(f"values: {name}", plan_file(PLAN, TENSORS | {"edits/0/values": values}))
    for name, blocks in {"twice": torch.zeros(4, dtype=torch.int64), "negative": -torch.arange(4) - 1}.items():
        yield case(f"blocks: {name}", plan_file(PLAN, TENSORS | {"edits/0/blocks": blocks}))
    texts = {
        "no JSON": "{", "a list": "[]", "null": "null", "deep": "[" * 100_000, "empty": "", "NaN": '{"version": NaN}',
        "a million edits of nothing": json.dumps(PLAN | {"edits": [{}] * MILLION}),
        "a million targets": json.dumps(PLAN | {"targets": [""] * MILLION}),
        "seventeen million letters": json.dumps("w" * 17 * MILLION),
    }  # fmt: skip
    for name, text in texts.items():
        yield case(f"text: {name}", plan_file(text))
    yield case("none", laid_out(TENSORS))


def records() -> Iterator[Case]:
    """Yield records in which one thing is wrong."""

    def case(name: str, content: Any, outcome: Any = "refused") -> Case:
        written = content if isinstance(content, bytes) else json.dumps(content).encode()
        return Case("record", name, writes(written), outcome, ".json", command="record")

    yield case("sound", RECORD, "read")
    for field in ("method", "seed", "targets", "edits", "epochs", "stages", "notes", "figures", "options"):
        for name in ("a number", "negative", "deep", "null in a list"):
            # Text is made printable, and what may be anything may be deep to a point.
            yield case(f"{field} is {name}", RECORD | {field: BAD[name]}, "either" if field == "seed" else "refused")
    for field in ("surgeon", "method", "stages"):
        yield case(f"without {field}", {name: value for name, value in RECORD.items() if name != field})
    strange = copy.deepcopy(RECORD) | {"stages": [{"name": "\x1b[2J<script>", "top1": None}]}
    yield case("escape codes", strange, "read")
    yield case("10,001 epochs", RECORD | {"epochs": [{}] * 10_001})
    contents = {
        "empty": b"", "no JSON": b"{", "a list": b"[]", "not UTF-8": b"\xff\xfe{", "deep": b"[" * MILLION,
        "a million lists": b'{"surgeon":[' + b"[]," * MILLION + b"[]]}", "spaces": b" " * (65 * MILLION),
        "twenty million numbers": b'{"edits":[' + b"0," * (20 * MILLION) + b"0]}",
        "a number of 5,000 digits": b'{"surgeon":' + b"9" * 5000 + b"}",
    }  # fmt: skip
    for name, content in contents.items():
        yield case(name, content)

    def folder(path: Path) -> None:
        path.mkdir()

    yield Case("record", "folder", folder, suffix=".json", command="record")


def trees() -> Iterator[Case]:
    """Yield states whose digest is right, and nothing else is."""
    texts = {
        "empty": "", "a list with a tensor that is not there": '[{"x":"w"}]', "two keys": '{"t":[],"m":[]}',
        "an unknown mark": '{"z":[]}', "a mapping of numbers": '{"m":[1]}', "keys that are lists": '{"m":[[[],1]]}',
        "deep": "[" * 100 + "]" * 100, "very deep": "[" * 100_000, "tuples in tuples": '{"t":[' * 60 + "]}" * 60,
        "ten million lists": "[" + "[]," * 10**7 + "[]]", "a tensor twice": '[{"x":"w"},{"x":"w"}]', "no JSON": "{",
    }  # fmt: skip
    tensors = {"w": torch.ones(2)}
    for name, text in texts.items():
        if name != "a list with a tensor that is not there":
            content = laid_out(tensors, {TREE_KEY: text, DIGEST_KEY: digest(tensors, text)})
        else:
            other = {"v": torch.ones(2)}
            content = laid_out(other, {TREE_KEY: text, DIGEST_KEY: digest(other, text)})
        yield Case("state", name, writes(content), command="tree")
    yield Case("state", "another digest", writes(laid_out(tensors, {TREE_KEY: "[]", DIGEST_KEY: "0"})), command="tree")


def record_cases() -> Iterator[Case]:
    """Yield all of them."""
    yield from plans()
    yield from records()
    yield from trees()
