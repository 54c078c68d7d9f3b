"""`surgeon compare`: a table of methods beside the control, in words that do not overclaim."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import ARCH, QUICK, call

from surgeon.cli import compare, finetune
from surgeon.cli.comparison_table import print_comparison
from surgeon.cli.contenders import Contender, contenders
from surgeon.cli.live import View
from surgeon.cli.render import OUT
from surgeon.errors import OptionError
from surgeon.operate.comparison import Comparison, Row
from surgeon.operate.paired import spread

SMALL = ["--arch", ARCH, *QUICK, "--limit", "20", "--seeds", "2"]


def test_a_table_a_verdict_and_a_folder_that_is_used_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    before = checkpoint.read_bytes()
    methods = ["--methods", "kernel-reactivation,reinit", "--set", "criterion=l2", "--set", "reinit.ratio=0.1"]
    assert call(monkeypatch, "compare", checkpoint, *SMALL, *methods) == 0
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    heads = [line[0] for line in lines if line]
    assert [head for head in heads if head in ("as", "control", "kernel-reactivation", "reinit")] == [
        "as", "control", "kernel-reactivation", "reinit",
    ]  # fmt: skip
    assert "kernel-reactivation: no difference" in shown.out
    assert "verdicts are adjusted for the number of methods" in shown.out
    assert "Run 6 of 6: reinit, seed 1" in shown.err
    folder = checkpoint.with_name("digits-comparison")
    assert lines[-1] == [str(folder)]
    assert checkpoint.read_bytes() == before
    assert {path.name for path in checkpoint.parent.iterdir()} == {checkpoint.name, folder.name}

    assert call(monkeypatch, "compare", checkpoint, *SMALL, *methods, "--json") == 0
    again = capsys.readouterr()
    assert "Run " not in again.err
    assert "6 of 6 runs are done already." in again.err
    told = json.loads(again.out)
    assert told == json.loads((folder / "comparison.json").read_text())
    assert [(run["name"], run["seed"]) for run in told["runs"]] == [
        (name, seed) for seed in (0, 1) for name in ("control", "kernel-reactivation", "reinit")
    ]
    assert [row["name"] for row in told["rows"]] == ["as it came", "control", "kernel-reactivation", "reinit"]
    assert told["rows"][0]["figures"]["top1"]["mean"] > 95
    assert told["rows"][1]["images"] == 20
    assert told["rows"][3]["difference"]["low"] is None or told["rows"][3]["p_value"] is not None
    assert all(run["stages"][-1]["name"] == "finetuned" and len(run["epochs"]) == 1 for run in told["runs"])
    assert told["runs"][2]["options"]["ratio"] == 0.1
    assert told["recipe"]["methods"] == "kernel-reactivation,reinit"

    # What a limit takes is decided by a run's own seed, and not by those of the others.
    assert call(monkeypatch, "compare", checkpoint, *SMALL, *methods, "--seed", "1", "--seeds", "1", "--overwrite") == 0
    assert "3 of 3 runs are done already." in capsys.readouterr().err


def test_a_run_is_repeated_by_its_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    asked = [
        *SMALL,
        "--seeds",
        "1",
        "--seed",
        "4",
        "--methods",
        "reinit",
        "--set",
        "criterion=l2",
        "--layers",
        "layer3",
    ]
    assert call(monkeypatch, "compare", checkpoint, *asked, "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert "One seed tells nothing about noise" in shown.err
    folder = checkpoint.with_name("digits-comparison")
    for command, run in zip(("finetune", "apply"), told["runs"], strict=True):
        record = folder / run["folder"] / "result.json"
        output = checkpoint.with_name(f"{command}.safetensors")
        assert call(monkeypatch, command, checkpoint, "--recipe", record, "--arch", ARCH, "-o", output) == 0
        again = json.loads(output.with_suffix(".json").read_text())
        assert again["stages"][-1]["top1"] == run["stages"][-1]["top1"]
        assert again["stages"][-1]["drift"] == run["stages"][-1]["drift"]
        assert [epoch["train_loss"] for epoch in again["epochs"]] == [epoch["train_loss"] for epoch in run["epochs"]]


def test_ctrl_c_says_where_the_runs_are_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    def stop(view: View, record: Any) -> None:
        raise KeyboardInterrupt

    arguments = ["compare", checkpoint, *SMALL, "--methods", "reinit", "--set", "criterion=l2"]
    with monkeypatch.context() as patch:
        patch.setattr(View, "epoch", stop)
        assert call(patch, *arguments) == 130
    folder = checkpoint.with_name("digits-comparison")
    said = capsys.readouterr().err
    assert f"The runs are kept in {folder}. The same command continues them:\nsurgeon compare {checkpoint}" in said
    assert "Interrupted" in said
    assert not (folder / "comparison.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--methods", "nonsense"], 1, "There is no method 'nonsense'"),
        (["--methods", "reinit,reinit"], 1, "named twice"),
        (["--methods", "reinit", "--set", "share=1"], 1, "an option of none of the methods"),
        (["--methods", "reinit", "--set", "sofm.ratio=1"], 1, "sofm, which is not compared"),
        (["--methods", "reinit", "--layers", "nowhere"], 1, "nowhere"),
        (["--methods", "reinit", "--partner", "other.pth"], 1, "No method that is compared takes a partner"),
        (["--methods", "reinit", "--teacher-weight", "0.3"], 1, "teacher-weight does nothing"),
        (["--methods", "filter-grafting"], 1, "stays as it is"),
        (["--methods", "repr"], 1, "repr needs"),
        (["--methods", "reinit", "--epochs", "0"], 1, "No epoch of fine-tuning"),
        (["--methods", "reinit", "--seeds", "0"], 2, "--seeds"),
        ([], 2, "--methods"),
    ],
)
def test_refusals_come_before_the_first_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert call(monkeypatch, "compare", checkpoint, *SMALL, *arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert "Run 1" not in shown.err
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_where_no_method_works_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    nothing = ["--methods", "weight-evolution", "--set", "alpha=0.0001", "--set", "beta=0.0001", "--seeds", "1"]
    assert call(monkeypatch, "compare", checkpoint, *SMALL, *nothing) == 1
    shown = capsys.readouterr()
    assert "weight-evolution failed (seed 0): The run edited nothing" in shown.out
    assert "No method could be compared with the control." in shown.out


def test_names_from_files_are_printed_as_they_are_and_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {name: spread([50.0]) for name in ("top1", "top5", "drift")}
    row = Row("[red]mine[/red]\x1b[2J", figures, spread([1.0]), 10, verdict="worse", failed={1: "of \x1b[2J"})
    comparison = Comparison((row,), (), "At … \x1b[2J.", (0,), "[b]net\x1b[2J", {}, {"name": "[/i]\x07"}, 1)
    print_comparison(comparison, OUT)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "'[b]net\\x1b[2J' on '[/i]\\x07', epochs: 1" in out
    assert "'[red]mine[/red]\\x1b[2J': worse" in out
    assert "failed (seed 1): of \\x1b[2J" in out
    assert "At … \\x1b[2J." in out


def test_methods_and_recipes_are_told_apart(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('method = "reinit"\nepochs = 200\nlayers = "layer2"\nratio = 0.5\n[set]\ncriterion = "l2"\n')
    plain, paper, mine = contenders(f"sofm, sofm-cifar,{recipe}", ("mine.ratio=0.2", "sofm.ratio=0.1"))
    assert plain == Contender("sofm", "sofm", {"ratio": "0.1"})
    assert (paper.name, paper.method, paper.layers) == ("sofm-cifar", "sofm", ("layer3", "layer4"))
    assert paper.options["merge"] == "mean"
    assert paper.options["every"] == 20
    assert "lr" in paper.left_out
    assert mine == Contender("mine", "reinit", {"criterion": "l2", "ratio": "0.2"}, ("layer2",), ("epochs",))


@pytest.mark.parametrize("name", ["control", "as it came"])
def test_a_recipe_with_the_name_of_a_row_is_refused(tmp_path: Path, name: str) -> None:
    recipe = tmp_path / f"{name}.toml"
    recipe.write_text('method = "reinit"\n')
    with pytest.raises(OptionError, match=f"The recipe {name} has the name of a row"):
        contenders(f"sofm,{recipe}", ())


def test_names_that_a_setting_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    recipes = [tmp_path / "a-b.toml", tmp_path / "a_b.toml"]
    for recipe in recipes:
        recipe.write_text('method = "reinit"\n')
    with pytest.raises(OptionError, match="a-b and a_b are too much alike"):
        contenders(",".join(map(str, recipes)), ())


def test_a_setting_without_a_method_belongs_to_the_one_that_knows_it() -> None:
    regeneration, reinit = contenders("channel-regeneration,reinit", ("threshold=mean", "criterion=l1"))
    assert (regeneration.options, reinit.options) == ({"threshold": "mean"}, {"criterion": "l1"})
    with pytest.raises(OptionError, match="kernel-reactivation and weight-evolution alike"):
        contenders("kernel-reactivation,weight-evolution", ("alpha=0.1",))


def test_all_options_of_fine_tuning_are_there() -> None:
    known, own = ({option.name for option in module.command.params} for module in (finetune, compare))
    of_a_single_run = {"restart", "resume_changed", "tensorboard", "generations", "model_card"}
    assert known - own == of_a_single_run
