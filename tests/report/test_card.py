"""Model cards: what they say, that they say no more than the record, and that no text of a record breaks out."""

import html
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from surgeon.printable import printable_lines
from surgeon.report.card import CONTROL, LICENSE, card
from surgeon.report.markdown import fenced, plain, table

RECORD: dict[str, Any] = {
    "surgeon": "0.1.0",
    "method": "finetune",
    "options": {},
    "seed": 3,
    "targets": [],
    "edits": [],
    "figures": {},
    "skipped": [],
    "epochs": [{"epoch": 0}],
    "tuning": {"epochs": 1, "seed": 3, "lr": 0.01, "mixup": False},
    "arch": "resnet18",
    "checkpoint": {"path": "/home/me/secret/resnet18.a1_in1k.safetensors", "sha256": "ab" * 32},
    "output": "/home/me/secret/mine.safetensors",
    "data": {"kind": "images", "name": "digits"},
    "partner": {},
    "device": "cpu",
    "recipe": {"data": "digits", "epochs": 1},
    "notes": ["One note."],
    "stages": [
        {"name": "original", "top1": 50.0, "top5": 90.0, "loss": 1.25, "drift": 0.0, "agreement": 1.0, "seconds": 1.0,
         "target": None, "metrics": {}},
        {"name": "finetuned", "top1": 75.126, "top5": 95.0, "loss": 0.5, "drift": 0.25, "agreement": 0.625,
         "seconds": 2.0, "target": None, "metrics": {}},
    ],
    "versions": {"python": "3.11", "torch": "2.8"},
}  # fmt: skip

GOLDEN = """\
---
library_name: timm
tags:
- surgeon
- finetune
- image-classification
base_model: timm/resnet18.a1_in1k
metrics:
- accuracy
model-index:
- name: mine
  results:
  - task:
      type: image-classification
    dataset:
      name: digits
      type: digits
    metrics:
    - type: accuracy
      name: top-1 accuracy in percent
      value: 75.13
    - type: accuracy
      name: top-5 accuracy in percent
      value: 95.0
---

# mine

This is resnet18.a1\\_in1k.safetensors (architecture resnet18), fine-tuned with surgeon 0.1.0.

## What was done

|  |  |
| :-- | :-- |
| input | resnet18.a1\\_in1k.safetensors |
| SHA-256 of the input | abababababababababababababababababababababababababababababababab |
| images | digits |
| epochs of fine-tuning | 1 |
| fine-tuning: lr | 0.01 |
| fine-tuning: mixup | false |
| seed | 3 |
| device | cpu |

## Figures

| stage | top-1 % | top-5 % | loss | drift | agreement % |
| :-- | --: | --: | --: | --: | --: |
| original | 50.00 | 90.00 | 1.2500 | 0.0000 | 100.00 |
| finetuned | 75.13 | 95.00 | 0.5000 | 0.2500 | 62.50 |

These are the figures of one run with one seed. Nothing was operated on: this is a control of others.
Drift is the relative distance of the answers to the original's, agreement the share of images with the same answer.

- One note.

## Use

```python
import surgeon
model = surgeon.load('mine.safetensors')

# or
import timm
model = timm.create_model('resnet18', checkpoint_path='mine.safetensors')
```

## Do it again

```sh
surgeon finetune resnet18.a1_in1k.safetensors --recipe recipe.json
```

with this as recipe.json, or with the run's record in its place; paths in it are those of where it ran:

```json
{
  "data": "digits",
  "epochs": 1
}
```

## License

LICENSE

## Versions

| package | version |
| :-- | :-- |
| surgeon | 0.1.0 |
| python | 3.11 |
| torch | 2.8 |
"""


def with_(**changes: Any) -> dict[str, Any]:
    return {**RECORD, **changes}


def front(text: str) -> dict[str, Any]:
    """Parse the front matter as the Hub does: between the first two lines of three dashes."""
    found = re.match(r"\A---\n(.*?)\n---\n", text, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = yaml.safe_load(found[1])
    return content


def test_a_card_in_full() -> None:
    assert card(RECORD) == GOLDEN.replace("LICENSE", LICENSE)


def test_the_record_read_from_its_file_gives_the_same_card() -> None:
    assert card(json.loads(json.dumps(RECORD))) == card(RECORD)


def test_a_method_is_told_with_its_paper_its_edits_and_the_need_of_a_control() -> None:
    edits = [
        {"tensor": "a.weight", "dim": 0, "channels": 4, "positions": "0-3", "what": "start anew"},
        {"tensor": "a.weight", "dim": 0, "channels": 1, "positions": "7", "what": "start anew", "epoch": 1},
        {"tensor": "b.weight", "dim": 1, "channels": 4, "positions": "0-3", "what": "divided"},
    ]
    text = card(with_(method="sofm", edits=edits, targets=["layer4"], skipped=[f"reason {n}" for n in range(25)]))
    assert "same fine-tuning without it gains less" in text
    assert "Paper: " in text
    assert "| start anew | 1 | 5 |\n| divided | 1 | 4 |" in text
    assert "- reason 19\n- … and 5 more, in the record\n" in text
    assert "surgeon apply resnet18.a1_in1k.safetensors --recipe recipe.json" in text
    text = card(with_(recipe={"arch": "a.py:f", "data": "hfds/x", "download": False}))
    assert "\nsurgeon finetune resnet18.a1_in1k.safetensors --recipe recipe.json --arch a.py:f --data hfds/x\n" in text


def test_folders_of_files_stay_private_and_no_license_is_invented() -> None:
    changes = {"arch": "/home/me/secret/net.py:make", "data": {"kind": "images", "name": "/home/me/secret/photos"}}
    text = card(with_(**changes, partner={"trained": True, "path": "/home/me/secret/p.pt"}))
    assert "secret" not in text
    assert "(architecture net.py:make)" in text
    assert "surgeon.load('mine.safetensors', arch='net.py:make')" in text
    assert not front(text).keys() & {"license", "library_name", "base_model"}


@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({}, "timm/resnet18.a1_in1k"),
        ({"arch": "resnet18.tv_in1k"}, "timm/resnet18.tv_in1k"),
        ({"checkpoint": {"path": "resnet18.safetensors"}}, None),
        ({"checkpoint": {"path": "resnet18.none.safetensors"}}, None),
        ({"checkpoint": {"path": "resnet34.a1_in1k.safetensors"}}, None),
        ({"arch": "torchvision:resnet18"}, None),
        ({"arch": None}, None),
        ({"checkpoint": {}}, None),
        ({"recipe": {"init": "random"}}, None),
    ],
)
def test_the_base_model_is_named_only_where_the_weights_are_known(changes: dict[str, Any], base: str | None) -> None:
    assert front(card(with_(**changes))).get("base_model") == base


def test_figures_of_a_part_of_the_images_are_told_as_such() -> None:
    (result,) = front(card(with_(recipe={"limit": 200})))["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits (200 images at most)", "type": "digits"}


@pytest.mark.parametrize("data", [{}, {"kind": "exemplars", "name": "x"}, {"kind": "random", "name": "random"}])
def test_only_what_was_measured_on_labelled_images_is_a_metric(data: Mapping[str, str]) -> None:
    text = card(with_(data=data))
    assert not front(text).keys() & {"model-index", "metrics"}
    assert ("not accuracy" in text) is bool(data)


def test_figures_that_are_missing_are_dashes_or_no_columns() -> None:
    bare = {"top1": None, "top5": None, "loss": None, "drift": None, "agreement": None, "seconds": 0.1, "target": None}
    stages = [{**bare, "name": "original", "metrics": {}}, {**bare, "name": "operated", "metrics": {"mean IoU": 0.5}}]
    text = card(with_(stages=stages, data={}, output=None, recipe={}, checkpoint={}))
    assert "| stage | mean IoU |\n| :-- | --: |\n| original | – |\n| operated | 0.5000 |" in text
    assert "model-index" not in front(text)
    assert "## Use" not in text
    assert "## Do it again" not in text


HOSTILE = [
    "a|b", "`x`", "```\n# title", "<script>alert(1)</script>", "line\nbreak", "---", "- item", "1. item", "# title",
    "[link](javascript:x)", "![image](http://x)", "*bold* _it_ ~~no~~ $x$", "&lt;",
    "back\\|slash", "\x1b[31m", "'\": {}",
    "a: b\n---\nlicense: mit", "\u2028x", "  indented",
    "\x1b]0;owned\x07", "a\u202egnp.exe", "nul\0", "half\udcff", "[bold]", '"|](x)',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_record_breaks_out(text: str) -> None:
    record = with_(
        method=text, options={text: text}, targets=[text], skipped=[text], notes=[text], device=text,
        data={"kind": "images", "name": text}, recipe={text: text}, output=f"{text.replace('/', '')}.safetensors",
        edits=[{"tensor": text, "dim": 0, "channels": 1, "positions": "0", "what": text}],
        checkpoint={"path": f"{text.replace('/', '')}.pt", "sha256": text}, versions={text: text}, surgeon=text,
    )  # fmt: skip
    made = card(record)
    assert made == printable_lines(made)
    made.encode()
    content = front(made)
    assert content["tags"][:2] == ["surgeon", text]
    assert content["model-index"][0]["results"][0]["dataset"]["name"] == text
    assert "license" not in content
    body = outside_of_code(made.split("\n---\n", 1)[1])
    titles = [line for line in body if line.startswith("#")]
    assert titles[1:] == [
        f"## {title}"
        for title in (
            "What was done", "Figures", "What was changed", "What was left alone", "Use", "Do it again", "License",
            "Versions",
        )
    ]  # fmt: skip
    for line in body:
        if line.startswith("|"):
            assert line.endswith("|")
        assert not re.search(r"<|(?<!\\)[\[*$~`]", line) or line in (CONTROL, LICENSE)
    for columns, rows in tables(body):
        assert all(len(re.split(r"(?<!\\)\|", row)) == columns for row in rows)


def outside_of_code(text: str) -> list[str]:
    """Return the lines that are not in a fenced block, by CommonMark's rule for the closing fence."""
    lines, fence = [], ""
    for line in text.split("\n"):
        opened = re.match(r"`{3,}", line)
        if fence:
            fence = "" if re.fullmatch(f"{fence}`*", line) else fence
        elif opened:
            fence = opened[0]
        else:
            lines.append(line)
    assert not fence
    return lines


def tables(lines: list[str]) -> list[tuple[int, list[str]]]:
    found: list[tuple[int, list[str]]] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append((len(re.split(r"(?<!\\)\|", line)), []))
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_reads_as_it_is(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    if text.isprintable():
        read = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown))
        assert read == text.strip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://x.y", r"see https:\//x.y"),
        ("FTP://x", r"FTP:\//x"),
        ("WWW.x.y", r"WWW\.x.y"),
        ("a//b.c", "a//b.c"),
    ],
)
def test_a_bare_address_becomes_no_link(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert re.search(r"(https?|ftp)://|www[.]", plain(text), re.IGNORECASE) is None


def test_tables_and_fences() -> None:
    assert (
        table(("a", "b"), [("x|y", 1)], 1)
        == textwrap.dedent(r"""
        | a | b |
        | :-- | --: |
        | x\|y | 1 |""").strip()
    )
    assert fenced("````", "sh") == "`````sh\n````\n`````"


def test_the_hub_reads_the_front_matter() -> None:
    data = ModelCard(card(RECORD)).data
    assert (data.library_name, data.base_model, data.license) == ("timm", "timm/resnet18.a1_in1k", None)
    assert [(result.task_type, result.dataset_name, result.metric_value) for result in data.eval_results or []] == [
        ("image-classification", "digits", 75.13),
        ("image-classification", "digits", 95.0),
    ]


def test_a_card_does_not_send_a_resized_network_to_timm() -> None:
    stock = card(RECORD)
    resized = card(with_(resized=True))
    assert "timm.create_model" in stock
    assert "library_name: timm" in stock
    assert "timm.create_model" not in resized
    assert "library_name" not in resized
    assert "surgeon.load(" in resized
