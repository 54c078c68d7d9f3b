"""Runs that were interrupted and go on: from any moment, and from nothing but their own state."""

import hashlib
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from two_stages import CLASSES, EXAMPLE, Two

import surgeon
from surgeon.checkpoint.tree_file import read_tree, write_tree
from surgeon.errors import CheckpointError, DivergenceError, OptionError, OutputError
from surgeon.operate.states import StateFolder
from surgeon.tuning import TuningConfig

KILLED_RUNS = Path(__file__).with_name("killed_runs.py")


class StoppedError(Exception):
    """Ends a run in the middle."""


def make_network(seed: int = 0) -> Two:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Two().eval()


def loader(*, shuffle: bool = False) -> DataLoader[Any]:
    labels = torch.arange(24) % CLASSES
    images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None, None, None]
    order = torch.Generator().manual_seed(2) if shuffle else None
    return DataLoader(TensorDataset(images, labels), 8, shuffle=shuffle, generator=order)


def run(state: Path | None, *, stop_at: int | None = None, **options: Any) -> Any:
    """Apply a method to a fresh network, stopped at a batch of whatever kind, and return the weights and the record."""
    model, batches = make_network(), 0

    def track(given: Any, description: str, total: int | None = None, **others: Any) -> Any:
        nonlocal batches
        for batch in given:
            batches += 1
            if batches == stop_at:
                raise StoppedError
            yield batch

    loaders = {"train": loader(shuffle=True), "val": loader(), "calibration": loader()}
    defaults = {"method": "sofm", "layers": ["two"], "epochs": 2, "example_input": EXAMPLE}
    given = {**loaders, **defaults, **options}
    record = surgeon.apply(model, state=state, track=track, **given)
    return model.state_dict(), record


def stopped(state: Path, at: int, **options: Any) -> None:
    with pytest.raises(StoppedError):
        run(state, stop_at=at, **options)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def rewrite(folder: Path, change: Any) -> None:
    """Change what the states of a folder hold."""
    for path in folder.iterdir():
        write_tree(path, change(read_tree(path)))


def groups(folder: Path) -> list[dict[str, Any]]:
    """Return the optimizer's groups of parameters in the newest state."""
    return list(read_tree(folder / names(folder)[-1])["tuning"]["optimizer"]["param_groups"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_runs_that_are_killed_at_many_moments_end_like_those_left_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, str(KILLED_RUNS), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    ends = [line for line in result.stdout.splitlines() if line.endswith("all of them the same")]
    assert [line.split(":")[0] for line in ends] == ["sofm", "sofm", "filter-grafting", "repr"]
    assert result.stdout.count("The run continues") >= 10


def test_a_calibration_loader_that_shuffles_goes_on_in_its_order(tmp_path: Path) -> None:
    options = {"every": 1, "epochs": 3}
    whole, _ = run(None, calibration=loader(shuffle=True), **options)
    stopped(tmp_path / "s", 33, calibration=loader(shuffle=True), **options)
    end, _ = run(tmp_path / "s", calibration=loader(shuffle=True), **options)
    assert same(whole, end)


def test_the_newest_two_states_are_kept_and_left_to_whoever_named_the_folder(tmp_path: Path) -> None:
    said: list[str] = []
    weights, _ = run(tmp_path / "s", save_every=1)
    # One before the fine-tuning, and for each of two epochs one after every update and one after the epoch.
    assert names(tmp_path / "s") == ["state-00000008.safetensors", "state-00000009.safetensors"]
    again, record = run(tmp_path / "s", say=said.append)
    assert said == ["The run continues after epoch 2 of 2 of two."]
    assert same(weights, again)
    assert len(record.epochs) == 2


def test_the_line_says_where_the_run_continues(tmp_path: Path) -> None:
    said: list[str] = []
    # 3 batches of the gauge are not tracked: 3 of the original, 3 each of class means, stage, recalibration and stage.
    stopped(tmp_path / "s", 18, save_every=1)
    run(tmp_path / "s", save_every=1, say=said.append)
    assert said == ["The run continues at epoch 1 of 2 of two, after batch 2."]


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    whole, _ = run(None)
    stopped(folder, 21, save_every=1)
    newer = folder / names(folder)[-1]
    content = bytearray(newer.read_bytes())
    content[-100] ^= 1
    newer.write_bytes(content)
    said: list[str] = []
    end, _ = run(folder, save_every=1, say=said.append)
    assert said[0] == f"The state {newer} is damaged, so the one before it is taken."
    assert same(whole, end)
    for path in folder.iterdir():
        path.write_bytes(b"no state")
    with pytest.raises(OutputError, match=r"No state in .* is sound"):
        run(folder)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"epochs": 3},
        {"layers": ["one"]},
        {"ratio": 0.25},
        {"tuning": TuningConfig(weight_decay=0.02)},
        {"recalibrate": False},
        {"teacher": "original"},
        {"identity": {"data": "others"}},
        {"train": DataLoader(loader().dataset, 12)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_state_of_another_run_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    stopped(tmp_path / "s", 18)
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with pytest.raises(
        OutputError, match=r"another run, with .*\. Begin anew with --restart, or write elsewhere with -o"
    ):
        run(tmp_path / "s", **other)
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_a_state_that_was_taken_up_takes_no_memory_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path / "s", 18, save_every=1)
    held: list[weakref.ref[torch.Tensor]] = []
    newest = StateFolder.newest

    def watched(folder: StateFolder, *given: Any) -> Any:
        state = newest(folder, *given)
        held.extend(weakref.ref(tensor) for tensor in state["tuning"]["model"].values())
        return state

    monkeypatch.setattr(StateFolder, "newest", watched)
    alive: list[int] = []
    run(tmp_path / "s", save_every=1, on_epoch=lambda epoch: alive.append(sum(one() is not None for one in held)))
    assert len(held) > 10
    assert alive == [0, 0]


class Stream(IterableDataset[Any]):
    """Images that come one after the other."""

    def __len__(self) -> int:
        return 24

    def __iter__(self) -> Any:
        return iter(loader().dataset)


def test_workers_share_a_stream_so_their_number_belongs_to_the_run(tmp_path: Path) -> None:
    stopped(tmp_path / "map", 18, train=DataLoader(loader().dataset, 8))
    run(tmp_path / "map", train=DataLoader(loader().dataset, 8, num_workers=1))
    stopped(tmp_path / "stream", 18, train=DataLoader(Stream(), 8))
    with pytest.raises(OutputError, match="another run"):
        run(tmp_path / "stream", train=DataLoader(Stream(), 8, num_workers=1))


def test_other_weights_make_another_run(tmp_path: Path) -> None:
    stopped(tmp_path / "s", 18)
    with pytest.raises(OutputError, match="another run"):
        surgeon.finetune(make_network(1), loader(), val=loader(), epochs=2, state=tmp_path / "s")


def test_fine_tuning_alone_goes_on_as_well(tmp_path: Path) -> None:
    def tune(state: Path | None, stop: bool = False) -> Any:
        model = make_network()

        def on_epoch(record: Any) -> None:
            if stop and record.epoch == 1:
                raise StoppedError

        record = surgeon.finetune(
            model, loader(shuffle=True), val=loader(), epochs=3, state=state, save_every=state and 2, on_epoch=on_epoch
        )
        return model.state_dict(), record

    whole, expected = tune(None)
    with pytest.raises(StoppedError):
        tune(tmp_path / "s", stop=True)
    end, record = tune(tmp_path / "s")
    assert same(whole, end)
    assert [epoch["top1"] for epoch in record.epochs] == [epoch["top1"] for epoch in expected.epochs]
    assert [stage.name for stage in record.stages] == ["original", "finetuned"]


WILD = TuningConfig(lr=1e30)


def test_a_diverged_run_goes_on_from_its_last_good_state_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError) as caught:
        run(tmp_path / "s", tuning=WILD)
    assert f"The last good state is kept in {tmp_path / 's'}: with --resume-changed" in caught.value.remedy
    # No epoch came to its end, so that state is the one before the first update.
    assert names(tmp_path / "s") == ["state-00000001.safetensors"]
    helped = TuningConfig(lr=0.05, sched="multistep", decay_milestones=(1.5,), clip_grad=1.0, warmup_epochs=1)
    with pytest.raises(OutputError) as refused:
        run(tmp_path / "s", tuning=helped)
    assert "a run with lr 1e+30 (now 0.05), sched cosine (now multistep), decay-milestones" in refused.value.problem
    assert "clip-grad none (now 1)" in refused.value.problem
    assert "--resume-changed" in refused.value.remedy
    said: list[str] = []
    whole, _ = run(None, tuning=helped)
    end, record = run(tmp_path / "s", tuning=helped, resume_changed=True, say=said.append)
    assert said[0] == "The run continues at epoch 1 of 2 of two."
    assert same(whole, end)
    assert "continued with other options than it began with: lr 1e+30 (now 0.05)" in record.notes[-1]


def test_what_changed_on_the_way_holds_from_there_and_stays_in_the_record(tmp_path: Path) -> None:
    first, later = TuningConfig(lr=0.05, momentum=0.5), TuningConfig(lr=0.01, sched="none", momentum=0.8)
    options = {"epochs": 3, "save_every": 1}
    stopped(tmp_path / "s", 23, tuning=first, **options)
    stopped(tmp_path / "s", 3, tuning=later, resume_changed=True, **options)
    # What goes on with the same options needs no leave.
    _, record = run(tmp_path / "s", tuning=later, **options)
    assert [row["lr"] for row in record.epochs] == [0.05, 0.05 * 0.75, 0.01]
    assert sum("continued with other options" in note for note in record.notes) == 1
    (group,) = {row["momentum"] for row in groups(tmp_path / "s")}
    assert group == 0.8


@pytest.mark.parametrize("term", ["torch", "surgeon", "device"])
def test_other_versions_and_devices_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    stopped(tmp_path / "s", 18)
    rewrite(tmp_path / "s", lambda state: {**state, "terms": {**state["terms"], term: "older"}})
    with pytest.raises(OutputError, match=rf"a run with {term} older \(now "):
        run(tmp_path / "s")
    _, record = run(tmp_path / "s", resume_changed=True)
    assert f"{term} older (now " in record.notes[-1]


def without(*path: str) -> Any:
    """Return what takes an entry out of a state."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        first, *rest = path
        if not rest:
            return {key: value for key, value in state.items() if key != first}
        return {**state, first: without(*rest)(state[first])}

    return change


@pytest.mark.parametrize(
    "path", [["tuning", "epochs"], ["course"], ["terms"], ["round"], ["tuning", "options"], ["partner", "training"],
             ["partner", "training", "next"], ["images"], ["tuning"]],
    ids=".".join,
)  # fmt: skip
def test_a_state_that_lacks_something_is_refused_with_the_way_out(tmp_path: Path, path: list[str]) -> None:
    options = {"method": "filter-grafting", "every": 1, "epochs": 3, "save_every": 1, "partner": make_network(1)}
    stopped(tmp_path / "s", 29, **options)
    rewrite(tmp_path / "s", without(*path))
    options["partner"] = make_network(1)
    with pytest.raises(CheckpointError, match=r"does not fit the run.* --restart"):
        run(tmp_path / "s", **options)


def test_a_state_of_another_format_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "s", 18)
    for change in (without("format"), lambda state: {**state, "format": 0}):
        rewrite(tmp_path / "s", change)
        with pytest.raises(OutputError, match=r"another version of surgeon\. Begin anew with --restart"):
            run(tmp_path / "s")


def test_how_many_epochs_are_over_is_told_where_a_run_goes_on(tmp_path: Path) -> None:
    state, told, seen = tmp_path / "s", [], []
    run(state, layers=["one", "two"], on_resume=told.append, on_epoch=lambda record: seen.append(record.epoch))
    assert told == []
    assert seen == [0, 1, 0, 1]
    # The newest state is that of the very end.
    run(state, layers=["one", "two"], on_resume=told.append, on_epoch=seen.append)
    assert told == [4]
    assert len(seen) == 4


def test_what_cannot_keep_states_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is no folder"):
        run(tmp_path / "file")
    for every, state in ((0, tmp_path / "s"), (5, None)):
        with pytest.raises(OptionError, match=f"every {every} updates"):
            run(state, save_every=every)


def test_a_folder_loses_nothing_but_what_a_run_has_put_there(tmp_path: Path) -> None:
    folder, out, other = (
        StateFolder(tmp_path / "s"),
        tmp_path / "out.safetensors",
        tmp_path / "other" / "out.safetensors",
    )
    folder.write("run", {"number": 1})
    (folder.path / ".surgeon-01234567-0123456789abcdef.tmp").write_bytes(b"half a state")
    other.parent.mkdir()
    for path in (out, other, tmp_path / "third"):
        path.write_bytes(b"mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    folder.announce({out: sha256})
    assert [folder.announced(path) for path in (out, other, tmp_path / "third")] == [True, False, False]
    strange = tmp_path / "cards\nof" / "mine"
    strange.parent.mkdir()
    strange.write_bytes(b"mine")
    folder.announce({strange: sha256})
    assert folder.announced(strange)
    # What a next try is about to put there takes nothing from what this one has put there, but for other content.
    folder.announce({out: hashlib.sha256(b"other").hexdigest()})
    assert folder.announced(out)
    out.write_bytes(b"other")
    assert folder.announced(out)
    out.write_bytes(b"precious")
    assert not folder.announced(out)
    folder.announce({out: hashlib.sha256(b"third").hexdigest()})
    out.write_bytes(b"mine")
    assert not folder.announced(out)
    out.write_bytes(b"third")
    folder.write("run", {"number": 2})
    folder.write("run", {"number": 3})
    (folder.path / "notes.txt").write_text("mine")
    assert names(folder.path) == ["notes.txt", "outputs", "state-00000002.safetensors", "state-00000003.safetensors"]
    folder.drop_states()
    assert folder.announced(tmp_path / "out.safetensors")
    folder.remove()
    assert names(folder.path) == ["notes.txt"]
