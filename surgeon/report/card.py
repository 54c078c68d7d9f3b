"""The model card of a result: Markdown with the front matter of the Hugging Face Hub, from the record of the run."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from surgeon.checkpoint.architecture import names_file
from surgeon.data.synthetic import NOTES as SYNTHETIC
from surgeon.methods import METHODS
from surgeon.operate.entrusted import entrusted_words
from surgeon.operate.finetune import NAME as FINETUNE
from surgeon.printable import printable, printable_lines
from surgeon.report.base_model import base_model, is_timm
from surgeon.report.markdown import fenced, plain, table

NOTHING = "–"
LONGEST_LINE = 1000

MOST_REMARKS = 20
"""Remarks of each kind that a card lists; the record has all of them."""

CONTROL = (
    "These are the figures of one run with one seed. A gain over the original is the operation's own only as far as the"
    " same fine-tuning without it gains less: hold the last row against that of `surgeon finetune` with the same"
    " options and seed before you call it one."
)
CONTROL_ITSELF = "These are the figures of one run with one seed. Nothing was operated on: this is a control of others."
LICENSE = (
    "This card states no license. Add `license:` to its front matter before you publish it: a fine-tuned checkpoint is"
    " bound by the license of the one that it was made from, and maybe by that of its images."
)


def card(record: Mapping[str, Any]) -> str:
    """Return the model card of a result.

    It says only what the record says: no license is named, and figures stand in the front matter only where they were
    measured on labelled images.

    Args:
        record: what `Record.to_dict` returns, or the same read from its JSON.
    """
    sections = {
        "What was done": _done(record),
        "Figures": _figures(record),
        "What was changed": _changed(record),
        "What was left alone": _remarks(record["skipped"]),
        "Use": _use(record),
        "Do it again": _again(record),
        "License": LICENSE,
        "Versions": table(("package", "version"), _versions(record)),
    }
    parts = [f"---\n{_front_matter(record)}---", f"# {plain(_name(record))}", _introduction(record)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def _front_matter(record: Mapping[str, Any]) -> str:
    content: dict[str, Any] = {}
    if is_timm(record["arch"]) and not record.get("resized"):
        content["library_name"] = "timm"
    scores = _scores(record)
    content["tags"] = ["surgeon", str(record["method"]), *(["image-classification"] if scores else [])]
    base = base_model(record)
    if base is not None:
        content["base_model"] = base
    if scores:
        name = _images(record) or "images"
        part = f" ({record['recipe']['limit']} images at most)" if "limit" in record["recipe"] else ""
        content["metrics"] = ["accuracy"]
        content["model-index"] = [
            {
                "name": _name(record),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": name + part, "type": name},
                        "metrics": scores,
                    }
                ],
            }
        ]
    text = str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=LONGEST_LINE))
    if text == printable_lines(text):
        return text
    return str(yaml.safe_dump(content, sort_keys=False, width=LONGEST_LINE))


def _scores(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the accuracies of the result, where they were measured on labelled images."""
    if record["data"].get("kind") != "images" or not record["stages"]:
        return []
    last = record["stages"][-1]
    return [
        {"type": "accuracy", "name": f"top-{place} accuracy in percent", "value": round(last[f"top{place}"], 2)}
        for place in (1, 5)
        if last[f"top{place}"] is not None
    ]


def _name(record: Mapping[str, Any]) -> str:
    return PurePath(record["output"]).stem if record["output"] else str(record["method"])


def _input(record: Mapping[str, Any]) -> str | None:
    """The name of the input file: its folder is nobody's business."""
    path = record["checkpoint"].get("path")
    return None if path is None else PurePath(path).name


def _images(record: Mapping[str, Any]) -> str | None:
    """The name of the images; of a folder that is named by its whole path, the last part."""
    name = record["data"].get("name")
    return PurePath(name).name if name is not None and PurePath(name).is_absolute() else name


def _introduction(record: Mapping[str, Any]) -> str:
    source = _input(record)
    start = "a network with random weights" if source is None or _starts_at_random(record) else plain(source)
    network = "" if record["arch"] is None else f" (architecture {plain(_architecture(record))})"
    done = "fine-tuned" if record["method"] == FINETUNE else f"edited by the method {plain(record['method'])}"
    text = f"This is {start}{network}, {done} with surgeon {plain(record['surgeon'])}."
    if record["method"] in METHODS:
        method = METHODS[record["method"]]
        text += f" {plain(method.summary)} Paper: {plain(method.paper)}"
    return text


def _architecture(record: Mapping[str, Any]) -> str:
    """The architecture as in `--arch`; of one's own code only the name of the file."""
    return str(record["arch"]).replace("\\", "/").rpartition("/")[2]


def _starts_at_random(record: Mapping[str, Any]) -> bool:
    return bool(record["recipe"].get("init", "checkpoint") != "checkpoint")


def _done(record: Mapping[str, Any]) -> str:
    digest = record["checkpoint"].get("sha256")
    rows: list[tuple[str, Any]] = [
        ("input", _input(record)),
        ("SHA-256 of the input", digest),
        ("layers", ", ".join(record["targets"]) or None),
        *((f"option {name}", value) for name, value in record["options"].items()),
        ("images", _images(record)),
        ("epochs of fine-tuning", len(record["epochs"])),
        *(
            (f"fine-tuning: {name}", value)
            for name, value in record["tuning"].items()
            if name not in ("epochs", "seed")
        ),
        ("partner", None if "path" not in record["partner"] else PurePath(record["partner"]["path"]).name),
        ("seed", record["seed"]),
        ("device", record["device"]),
    ]
    return table(("", ""), ((name, _value(value)) for name, value in rows if value is not None))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple, Mapping, bool)) else str(value)


def _figures(record: Mapping[str, Any]) -> str:
    stages = record["stages"]
    names = list(dict.fromkeys(name for stage in stages for name in stage["metrics"]))
    columns = [name for name in ("top1", "top5", "loss", "drift") if any(stage[name] is not None for stage in stages)]
    headings = {"top1": "top-1 %", "top5": "top-5 %", "loss": "loss", "drift": "drift"}
    agreement = any(stage["agreement"] is not None for stage in stages)
    rows = [
        (
            stage["name"] if stage["target"] is None else f"{stage['name']} ({stage['target']})",
            *(_number(stage[name], 2 if name.startswith("top") else 4) for name in columns),
            *([_number(stage["agreement"], 2, 100)] if agreement else []),
            *(_number(stage["metrics"].get(name), 4) for name in names),
        )
        for stage in stages
    ]
    titles = ["stage", *(headings[name] for name in columns), *(["agreement %"] if agreement else []), *names]
    notes = [CONTROL_ITSELF if record["method"] == FINETUNE else CONTROL]
    if columns or agreement:
        notes.append(
            "Drift is the relative distance of the answers to the original's, agreement the share of images with the"
            " same answer."
        )
    notes += [plain(SYNTHETIC[kind]) for kind in [record["data"].get("kind")] if kind in SYNTHETIC]
    parts = [table(titles, rows, len(titles) - 1), "\n".join(notes), _remarks(record["notes"])]
    return "\n\n".join(part for part in parts if part)


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return NOTHING if value is None else f"{factor * value:.{digits}f}"


def _changed(record: Mapping[str, Any]) -> str:
    """Return the edits in short: what happened, and in how many tensors to how many channels."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for edit in record["edits"]:
        kinds.setdefault(str(edit["what"]), []).append(edit)
    rows = [
        (what, len({edit["tensor"] for edit in edits}), sum(edit["channels"] for edit in edits))
        for what, edits in kinds.items()
    ]
    if not rows:
        return ""
    text = table(("what", "tensors", "channels, of all tensors"), rows, 2)
    return f"{text}\n\nThe record lists every tensor and which of its channels."


def _remarks(sentences: Iterable[object]) -> str:
    """Return a list of sentences, the first of them where there are many."""
    lines = [f"- {plain(sentence)}" for sentence in sentences]
    more = len(lines) - MOST_REMARKS
    return "\n".join(lines[:MOST_REMARKS] + ([f"- … and {more} more, in the record"] if more > 0 else []))


def _use(record: Mapping[str, Any]) -> str:
    if record["output"] is None:
        return ""
    file = PurePath(record["output"]).name
    arch = record["arch"] or ""
    lines = ["import surgeon", f"model = surgeon.load({file!r})"]
    if names_file(arch):
        # A file of code is not run on a checkpoint's word.
        lines = ["import surgeon", f"model = surgeon.load({file!r}, arch={_architecture(record)!r})"]
    if is_timm(record["arch"]) and not record.get("resized"):
        arguments = "".join(f", {name}={value!r}" for name, value in record.get("arch_arguments", {}).items())
        call = f"model = timm.create_model({record['arch']!r}{arguments}, checkpoint_path={file!r})"
        lines += ["", "# or", "import timm", call]
    return fenced("\n".join(lines), "python")


def _again(record: Mapping[str, Any]) -> str:
    if not record["recipe"]:
        return ""
    command = "finetune" if record["method"] == FINETUNE else "apply"
    given = [] if _input(record) is None else [str(_input(record))]
    words = ["surgeon", command, *given, "--recipe", "recipe.json", *entrusted_words(record["recipe"])]
    line = printable(shlex.join(words))
    recipe = json.dumps(record["recipe"], indent=2, default=str)
    return (
        f"{fenced(line, 'sh')}\n\nwith this as recipe.json, or with the run's record in its place; paths in it are"
        f" those of where it ran:\n\n{fenced(recipe, 'json')}"
    )


def _versions(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [("surgeon", record["surgeon"]), *record["versions"].items()]
