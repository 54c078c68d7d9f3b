"""Recipes: those of the papers, and those that replay a run."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from command_line import ARCH, call, small_network
from safetensors.torch import load_file, save_file

from surgeon.cli import apply, finetune
from surgeon.cli.contenders import contenders
from surgeon.cli.options import key_values
from surgeon.cli.recipes import method_settings, recipe_of, shipped
from surgeon.cli.tuning_options import tuning_config
from surgeon.errors import OptionError
from surgeon.methods import METHODS, make_config

QUICK = ["--arch", ARCH, "--limit", "20", "--workers", "0", "--batch-size", "10"]
MANY = [
    "--mixup", "0.2", "--model-ema", "--model-ema-decay", "0.6", "--aa", "rand-m5", "--freeze", "conv1",
    "--freeze", "layer1", "--sched", "multistep", "--decay-milestones", "1", "--smoothing", "0.1", "--clip-grad", "2",
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        # On images that nobody took, other defaults hold.
        ["apply", "--method", "reinit", "--ratio", "0.3", "--layers", "layer3", "--every", "1", "--data", "random"],
        ["finetune", "--data", "digits"],
    ],
    ids=["apply", "finetune"],
)
def test_a_record_replays_its_run(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, arguments: list[str]
) -> None:
    name, *more = arguments
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    record = first.with_suffix(".json")
    assert call(monkeypatch, name, checkpoint, *more, *QUICK, *MANY, "--epochs", "2", "--seed", "7", "-o", first) == 0
    # The code of the architecture is run where the command line names it.
    assert call(monkeypatch, name, checkpoint, "--recipe", record, "--arch", ARCH, "-o", again) == 0
    one, other = load_file(first), load_file(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    recipe = json.loads(record.read_text())["recipe"]
    assert json.loads(again.with_suffix(".json").read_text())["recipe"] == recipe
    assert {"output", "o", "overwrite", "recipe", "json"}.isdisjoint(recipe)


def test_a_recipe_is_read_from_a_record_or_as_its_table_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = {"method": "sofm", "layers": ["a", "b"], "lr": 0.25, "decay-milestones": [1.0, 2.0], "set": {"ratio": 1}}
    for content in (recipe, {"surgeon": "0.1.0", "options": {}, "recipe": recipe}):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(content))
        values = apply.command.make_context("apply", ["in", "--recipe", str(path), "--method", "reinit"]).params
        assert (values["method"], values["layers"], values["lr"]) == ("reinit", ("a", "b"), 0.25)
        assert (values["decay_milestones"], values["settings"]) == ((1.0, 2.0), ("ratio=1",))


def options_of(*arguments: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the method's options of a command line, and those of the recipe that it makes."""
    context = apply.command.make_context("apply", ["in", *arguments])
    short = {name: context.params[name] for name in (*apply.METHOD_OPTIONS, "every")}
    options, changed = method_settings(context, context.params["settings"], short)
    return options, recipe_of(context, changed)


def test_what_is_set_on_the_command_line_leaves_the_recipe_s_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('method = "sofm"\nratio = 0.5\nevery = 4\n[set]\nmerge = "mean"\nlearning-rate = 0.2\n')
    given = ["--recipe", str(path)]
    kept = {"merge": "mean", "learning_rate": "0.2", "ratio": "0.5", "every": "4"}
    assert options_of(*given)[0] == kept
    changed = [*given, "--set", "merge=preserve", "--set", "ratio=0.25", "--every", "2"]
    expected = {"merge": "preserve", "learning_rate": "0.2", "ratio": "0.25", "every": "2"}
    options, recipe = options_of(*changed)
    assert options == expected
    # What the command line gives twice is as it was.
    assert options_of(*given, "--ratio", "0.3", "--set", "ratio=0.4")[0]["ratio"] == "0.3"
    again = tmp_path / "again.json"
    again.write_text(json.dumps(recipe))
    assert options_of("--recipe", str(again))[0] == expected


def test_fine_tuning_takes_an_operation_s_recipe_without_the_operation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    few = [*QUICK, "--data", "digits", "--epochs", "1"]
    record, control = tmp_path / "first.json", tmp_path / "control.safetensors"
    operation = ["--method", "reinit", "--ratio", "0.3", "--layers", "layer3", "--lr", "0.02", "--no-recalibrate"]
    assert call(monkeypatch, "apply", checkpoint, *few, *operation, "-o", record.with_suffix(".safetensors")) == 0
    capsys.readouterr()
    assert call(monkeypatch, "finetune", checkpoint, "--recipe", record, "--arch", ARCH, "-o", control) == 0
    note = f"The recipe {record} asks for what only `surgeon apply` does, which is left out: "
    note += "exemplars, layers, method, no-recalibrate, ratio."
    assert note in capsys.readouterr().err
    written = json.loads(control.with_suffix(".json").read_text())
    assert (written["method"], written["tuning"]["lr"], written["tuning"]["epochs"]) == ("finetune", 0.02, 1)
    assert note in written["notes"]
    assert "method" not in written["recipe"]
    values = finetune.command.make_context("finetune", ["in", "--recipe", "sofm-cifar"]).params
    assert (values["lr"], values["epochs"]) == (0.1, 200)


def test_a_recipe_holds_what_was_given_and_the_defaults() -> None:
    given = ["input", "--method", "sofm", "--layers", "a", "--layers", "b", "--set", "ratio=0.5", "--set", "merge=mean"]
    context = apply.command.make_context("apply", [*given, "--no-recalibrate", "--partner", "x/y", "-o", "z"])
    recipe = recipe_of(context, {"teacher": "original"})
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["layers"] == ["a", "b"]
    assert recipe["set"] == {"ratio": "0.5", "merge": "mean"}
    assert recipe["teacher"] == "original"
    assert (recipe["no-recalibrate"], recipe["partner"], recipe["lr"]) == (True, "x/y", 0.01)
    assert {"freeze", "overwrite", "output", "aa", "checkpoint"}.isdisjoint(recipe)


def read(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A paper's recipe as the command reads it: its values, and the method's options among them."""
    values = apply.command.make_context("apply", ["input", "--recipe", name]).params
    options = key_values(values["settings"])
    if values["every"] is not None:
        options["every"] = str(values["every"])
    return values, options


@pytest.mark.parametrize("name", shipped())
def test_every_paper_s_recipe_is_accepted(name: str) -> None:
    values, options = read(name)
    tuning_config(values, values["epochs"], values["seed"])
    assert name.startswith(values["method"])
    make_config(METHODS[values["method"]], options)


def test_recipes_by_the_papers_numbers() -> None:
    values, options = read("kernel-reactivation-cifar")
    # "batch size of 128, momentum of 0.9, weight decay of 0.0005, overall training epoch of 200, learning rate starting
    # from 0.1, and cosine annealing"; (alpha, beta, gamma, E) = (0.2, 0.3, 0.1, 10).
    names = ("opt", "lr", "momentum", "weight_decay", "epochs", "batch_size", "sched")
    assert [values[name] for name in names] == ["momentum", 0.1, 0.9, 0.0005, 200, 128, "cosine"]
    assert options == {"alpha": "0.2", "beta": "0.3", "gamma": "0.1", "every": "10"}
    values, options = read("repr-cifar")
    # "S1 = 20, S2 = 10, N = 3, p% = 30", SGD "with a learning rate of 0.01", figure 1 over 100 epochs.
    assert (values["lr"], values["epochs"], options["s1"], options["s2"], options["n"]) == (0.01, 100, "20", "10", "3")
    assert (options["ratio"], options["criterion"]) == ("0.3", "ortho")
    values, options = read("sofm-cifar")
    # "200 epochs … 0.1 and reduced by a factor of 5 at epochs 60, 120 and 160 … every 20 epochs"; a map of 50 %.
    tuning = tuning_config(values, values["epochs"], 0)
    assert (tuning.lr, tuning.decay_rate, tuning.decay_milestones) == (0.1, 0.2, (60, 120, 160))
    assert (tuning.epochs, tuning.warmup_epochs, options["every"], options["ratio"]) == (200, 1, "20", "0.5")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "There is no recipe"),
        ("lr = \n", "cannot be read"),
        ("{", "cannot be read"),
        ('{"surgeon": "1", "recipe": {}}', "holds no recipe"),
        ('{"surgeon": "1", "recipe": {"nonsense": 1}}', "unknown option 'nonsense'"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: str | None,
    problem: str,
) -> None:
    path = tmp_path / "recipe"
    if content is not None:
        path.write_text(content)
    assert call(monkeypatch, "apply", "input", "--recipe", path) == 1
    shown = capsys.readouterr().err
    assert problem in shown
    assert ("sofm-imagenet" in shown) == (content is None)


def test_a_value_of_another_kind_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[lr]\nfirst = 1\n")
    assert call(monkeypatch, "finetune", "input", "--recipe", tmp_path / "recipe.toml") == click.UsageError.exit_code


def test_the_recipes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "methods") == 0
    shown = "".join(capsys.readouterr())
    assert all(name in shown for name in shipped())


@pytest.fixture
def evil(tmp_path: Path) -> tuple[str, Path]:
    """Return an architecture whose code leaves a file when it runs, and that file."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(
        f"import pathlib, timm\npathlib.Path({str(canary)!r}).touch()\n"
        "def build(num_classes=10): return timm.create_model('test_resnet', num_classes=num_classes)\n"
    )
    return f"{tmp_path / 'evil.py'}:build", canary


TEACHER = {"teacher": "other.safetensors", "epochs": 1}


@pytest.mark.parametrize("more", ["arch", "teacher-arch", "a table"])
def test_code_that_a_recipe_names_runs_where_the_command_line_names_it_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    evil: tuple[str, Path],
    more: str,
) -> None:
    arch, canary = evil
    checkpoint = tmp_path / "test_resnet.safetensors"
    save_file(small_network().state_dict(), checkpoint)
    option = "teacher-arch" if more == "teacher-arch" else "arch"
    recipe = {"method": "channel-regeneration", option: arch, **(TEACHER if option != "arch" else {})}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(recipe if more == "a table" else {"surgeon": "0.1.0", "recipe": recipe}))
    asked = ["apply", checkpoint, "--recipe", path, "--dry-run"]
    assert call(monkeypatch, *asked) == 1
    problem, remedy = capsys.readouterr().err.strip().splitlines()
    assert f"{path} asks for {option} = {arch}" in problem
    assert not canary.exists()
    if option == "arch":
        # The remedy works.
        assert call(monkeypatch, *asked, *shlex.split(remedy.partition(": ")[2]), "--data", "random") == 0
        assert canary.exists()
    else:
        assert remedy.endswith(f"--teacher-arch {arch}")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data", "hfds/somebody/images", "--data hfds/somebody/images"),
        ("data", "WDS/x", "--data WDS/x"),
        ("data", "torch/cifar10", "--data torch/cifar10"),
        ("data-root", "pipe:touch canary", "--data-root 'pipe:touch canary'"),
        ("download", True, "--download"),
        ("overwrite", True, "--overwrite"),
        ("output", "-x.safetensors", "--output=-x.safetensors"),
        ("o", "x.safetensors", "--output x.safetensors"),
        ("model_card", "README.md", "--model-card README.md"),
        ("save-plan", "plan.safetensors", "--save-plan plan.safetensors"),
        ("save-exemplars", "images", "--save-exemplars images"),
        ("tensorboard", "events", "--tensorboard events"),
        ("restart", True, "--restart"),
        ("workers", 65, "--workers 65"),
    ],
)
def test_what_is_fetched_written_or_replaced_the_command_line_decides(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"method": "sofm", name: value}))
    given = ["in", "--recipe", str(path)]
    with pytest.raises(OptionError) as refused:
        apply.command.make_context("apply", list(given))
    # What a record of a run has is said; to write or replace what a file asks for, nobody is told how.
    told, option = f"If you trust it, write beside --recipe: {words}", words.replace("=", " ").split(" ")[0]
    if name not in ("data", "data-root", "download"):
        told = f"Give {option} on the command line, or take it out of the recipe."
    assert refused.value.remedy == told
    context = apply.command.make_context("apply", [*given, *shlex.split(words)])
    assert str(context.params["output" if name == "o" else name.replace("-", "_")]) == str(value)


def test_other_files_and_networks_a_recipe_may_name(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    named = {"arch": "resnet18", "teacher-arch": "torchvision:resnet18", "data": "images/torch", "partner": "a.pt"}
    path.write_text(json.dumps({**named, "download": False, "workers": 64}))
    values = apply.command.make_context("apply", ["in", "--recipe", str(path)]).params
    assert [str(values[name.replace("-", "_")]) for name in named] == list(named.values())


@pytest.mark.parametrize(
    "value",
    [
        {"set": 5}, {"set": [5]}, {"set": [["a"]]}, {"set": {"a": {"b": 1}}}, {"layers": None}, {"layers": [None]},
        {"epochs": float("inf")}, {"epochs": float("nan")}, {"epochs": 10**400},
        {"epochs": 2**63}, {"epochs": [1, 2]}, {"epochs": True}, {"epochs": 2.5}, {"lr": {}}, {"method": None},
        {"method": [["a"]]}, {"method": "\ud800"}, {"data": "a\0b"}, {"input-size": [[[]]]}, {"no-recalibrate": "x"},
        {"no-recalibrate": 2}, {"decay-milestones": ["x"]}, {"\x1b[2J": 1}, {"a" * 100_000: 1}, {"recipe": "x"},
        {"help": True}, {"partner": "x" * 10_000}, {"ratio": [{}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_no_option_has_is_refused_in_a_sentence(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"surgeon": "0", "recipe": {"method": "channel-regeneration", **value}}))
    with pytest.raises((OptionError, click.UsageError)) as refused:
        options_of("--recipe", str(path))
    assert len(str(refused.value)) < 10_000


@pytest.mark.parametrize("value", [{"set": 5}, {"set": ["a"]}, {"layers": None}, {"layers": [[1]]}, {"method": {}}])
def test_a_comparison_s_recipe_is_held_to_the_same(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"method": "sofm", **value}))
    with pytest.raises(OptionError):
        contenders(str(path), ())


def test_what_costs_more_than_a_recipe_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(json, "loads", None)
    path = tmp_path / "recipe"
    os.mkfifo(path)
    assert call(monkeypatch, "apply", "input", "--recipe", path) == 1
    assert "it is no regular file" in capsys.readouterr().err
    path.unlink()
    for text, said in (
        ('{"surgeon": 1, "recipe": {"a": [' + "[]," * 2**20 + "[]]}}", "values"),
        ('{"a":' * 10_000, "nested"),
        ("a = [" + "[]," * 2**15 + "]", "longer than 65536 characters"),
    ):
        path.write_text(text)
        assert call(monkeypatch, "apply", "input", "--recipe", path) == 1
        assert said in capsys.readouterr().err
