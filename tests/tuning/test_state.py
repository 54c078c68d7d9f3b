"""Runs that go on from a state of an earlier one."""

import copy
import dataclasses
import os
import random
import signal

import numpy
import pytest
import torch
from pieces import Varied, images, network, same_bits, shuffled
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from surgeon.checkpoint.tree_file import read_tree, write_tree
from surgeon.errors import CheckpointError, DivergenceError
from surgeon.tuning import EpochByEpoch, Saving, Tuned, TuningConfig, generators, make_accelerator, tune

CONFIG = TuningConfig(epochs=3, lr=0.1, seed=4)


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


@pytest.fixture
def fit(accelerator):
    """Tune a fresh network; return it and what came of it."""

    def run(config=CONFIG, *, loader=None, dropout=0.5, **options) -> tuple[dict[str, torch.Tensor], Tuned]:
        model = network(dropout)
        train = shuffled(images()) if loader is None else loader
        tuned = tune(model, train, DataLoader(images(), 8), config, accelerator=accelerator, **options)
        return copy.deepcopy(model.state_dict()), tuned

    return run


def noise(seed: int) -> None:
    """Give the process random numbers that no run may depend on, unless it stores them."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)


def collecting(states: list, every: int | None = 1) -> Saving:
    return Saving(lambda state: states.append(copy.deepcopy(state)), every)


def figures(tuned: Tuned) -> list[dict]:
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in dataclasses.asdict(record).items() if k not in timed} for record in tuned.epochs]


def check_every_state(fit, config=CONFIG, loader=lambda: None, places=None, between_epochs=None, **options) -> None:
    """Go on from each state of a run, and hold the end against that of one that was left alone."""
    noise(1)
    whole, tuned = fit(config, loader=loader(), between_epochs=between_epochs, **options)
    states = []
    noise(1)
    fit(config, loader=loader(), saving=collecting(states), between_epochs=between_epochs, **options)
    assert len(states) >= 1 + config.epochs
    for number in range(len(states)) if places is None else places:
        noise(2 + number)
        end, resumed = fit(config, loader=loader(), state=states[number], between_epochs=between_epochs, **options)
        assert same_bits(whole, end), number
        assert figures(resumed) == figures(tuned), number
        assert resumed.best_epoch == tuned.best_epoch
        assert same_bits(resumed.best_state, tuned.best_state)


def test_a_run_goes_on_bitwise_from_any_of_its_states(fit):
    # Three updates an epoch: a state before, after every update and after every epoch.
    check_every_state(fit, places=(0, 1, 3, 4, 6, 11))


def test_a_run_with_the_orthogonal_loss_goes_on_bitwise(fit):
    check_every_state(fit, dataclasses.replace(CONFIG, epochs=2, orthogonal_loss=0.01), places=(0, 2, 4))


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "lookahead_adam", "adahessian", "madgrad", "adafactor"])
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_the_memory_of_every_optimizer_comes_back(fit, optimizer):
    check_every_state(fit, dataclasses.replace(CONFIG, opt=optimizer, lr=0.01, warmup_epochs=1), places=(2,))


def test_the_moving_average_and_what_mixes_images_come_back(fit):
    config = dataclasses.replace(CONFIG, model_ema=True, model_ema_decay=0.9, mixup=0.2, cutmix=1.0)
    check_every_state(fit, config, places=(0, 3, 8, 12))


def test_an_average_of_bf16_weights_is_rounded_as_it_would_have_been(accelerator):
    pixels, labels = images().tensors
    data = TensorDataset(pixels.bfloat16(), labels)
    config = dataclasses.replace(CONFIG, model_ema=True)
    states, ends = [], []
    for saving, place in ((collecting(states), None), (None, 4), (None, 8)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)).bfloat16()
        tune(
            model, shuffled(data), DataLoader(data, 8), config, accelerator=accelerator, saving=saving,
            state=None if place is None else states[place],
        )  # fmt: skip
        ends.append(copy.deepcopy(model.state_dict()))
    assert all(same_bits(ends[0], end) for end in ends[1:])


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_the_generators_of_every_kind_of_device_are_kept(monkeypatch, kind):
    kept = [torch.tensor([1])]
    # As a device would: its state is not the CPU's.
    monkeypatch.setattr(getattr(torch, kind), "get_rng_state", lambda *device: kept[0])
    monkeypatch.setattr(getattr(torch, kind), "set_rng_state", lambda state, *device: kept.__setitem__(0, state))
    states = generators.generator_states(torch.device(kind))
    kept[0] = torch.tensor([2])
    generators.set_generators(states, torch.device(kind))
    assert kept[0].item() == 1
    # A run that goes on elsewhere has nothing to put back there.
    generators.set_generators(generators.generator_states(torch.device("cpu")), torch.device(kind))
    assert kept[0].item() == 1


@pytest.mark.parametrize(
    ("workers", "persistent"), [(0, False), (1, False), (2, True)], ids=["in process", "worker", "persistent"]
)
def test_images_that_are_varied_at_random_come_as_they_would_have(fit, workers, persistent):
    def loader():
        return shuffled(Varied(), num_workers=workers, persistent_workers=persistent)

    check_every_state(fit, loader=loader, places=(5,))


def test_a_sampler_without_a_generator_gives_the_same_order(fit):
    check_every_state(fit, loader=lambda: DataLoader(images(), 8, sampler=RandomSampler(images())), places=(2, 6))


def test_batches_that_were_seen_are_not_read_again_where_that_changes_nothing(fit):
    class Honest(Varied):
        keeps_to_itself = True

    states = []
    fit(loader=shuffled(images()), saving=collecting(states))
    honest, unknown = Honest(), Varied()
    for dataset in (honest, unknown):
        fit(loader=shuffled(dataset), state=states[2])
    # State 2 is that after two of three batches; two more epochs follow.
    assert len(honest.read) == 8 + 2 * 24
    assert len(unknown.read) == 24 + 2 * 24


def test_accumulated_gradients_are_never_cut_apart(accelerator):
    states, ends = [], []
    accelerator.gradient_accumulation_steps = 2
    try:
        for saving, place in ((collecting(states), None), (None, 1), (None, 2), (None, 4)):
            model = network(0.5)
            tune(
                model, shuffled(images(), 4), DataLoader(images(), 8), CONFIG, accelerator=accelerator, saving=saving,
                state=None if place is None else states[place],
            )  # fmt: skip
            ends.append(copy.deepcopy(model.state_dict()))
    finally:
        accelerator.gradient_accumulation_steps = 1
    assert [state["epoch"] and state["epoch"][0]["batches"] for state in states[:5]] == [None, 2, 4, 6, None]
    assert all(same_bits(ends[0], end) for end in ends[1:])


def test_what_is_done_between_epochs_is_done_once(fit):
    done = []

    def between(epoch, optimizer):
        done.append(epoch)
        return {"epoch": epoch, "figures": {"one": [1, 2.5]}}

    check_every_state(fit, places=(5, 6), between_epochs=between)
    # Two runs as a whole; then one that goes on within epoch 1, and another.
    assert done == [1, 2, 1, 2, 2, 2]


def test_the_frequency_counts_updates(fit):
    states = []
    fit(saving=collecting(states, 4))
    places = [(state["updates"], state["epoch"] is not None) for state in states]
    assert places == [(0, False), (3, False), (4, True), (6, False), (8, True), (9, False)]


def test_a_state_survives_a_file(fit, tmp_path):
    states = []
    config = dataclasses.replace(CONFIG, opt="adamw")
    whole, _ = fit(config, saving=collecting(states))
    write_tree(tmp_path / "state.safetensors", states[6])
    end, _ = fit(config, state=read_tree(tmp_path / "state.safetensors"))
    assert same_bits(whole, end)


def test_training_by_single_epochs_goes_on_too(accelerator):
    def training(model, state=None):
        return EpochByEpoch(model, shuffled(images()), CONFIG, accelerator=accelerator, state=state)

    whole, first, second = network(0.5), network(0.5), network(0.5)
    assert list(training(whole)) == [0, 1, 2]
    begun = training(first)
    assert begun.state() is None
    next(begun)
    state = copy.deepcopy(begun.state())
    begun.close()
    assert list(training(second, state)) == [1, 2]
    assert same_bits(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("where", ["training", "scoring"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_to_stop_gets_a_state_of_that_moment(fit, where, number):
    whole, _ = fit()
    states, calls = [], []
    terminated = SystemExit(143)

    def stop(batches, description, total=None, **options):
        for batch in batches:
            calls.append(description)
            if where == "training" and calls.count("epoch 2/3") == 2:
                os.kill(os.getpid(), number)
            if where == "scoring" and description == "evaluating":
                raise KeyboardInterrupt if number == signal.SIGINT else terminated
            yield batch

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(saving=collecting(states, None), track=stop)
    assert signal.getsignal(number) == before
    (position,) = states[-1]["epoch"]
    expected = (1, 2) if where == "training" else (0, 3)
    assert (position["number"], position["batches"]) == expected
    end, _ = fit(state=states[-1])
    assert same_bits(whole, end)


def test_who_asks_twice_is_not_kept_waiting(fit):
    states = []

    def stop(batches, description, total=None, **options):
        for batch in batches:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        fit(saving=collecting(states, None), track=stop)
    assert len(states) == 1


def test_spoilt_weights_are_never_handed_out(fit):
    states = []

    def spoil(epoch, optimizer):
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(float("nan"))

    with pytest.raises(DivergenceError):
        fit(saving=collecting(states), between_epochs=spoil)
    assert [state["updates"] for state in states] == [0, 1, 2, 3, 3]
    assert all(value.isfinite().all() for value in states[-1]["model"].values())


def test_the_step_and_the_rate_of_a_divergence_are_told(fit):
    # Every image of the second batch is infinite; 0.1 halves to 0.05 by the cosine of two updates.
    pixels, labels = images(16).tensors
    pixels[8:] = float("inf")
    loader = DataLoader(TensorDataset(pixels, labels), 8)
    with pytest.raises(DivergenceError) as caught:
        fit(TuningConfig(epochs=1, lr=0.1), loader=loader)
    assert "epoch 1 of 1, at batch 2" in caught.value.problem
    assert "it was 0.05 there, and 0.1 at first" in caught.value.remedy


def test_the_state_of_another_run_is_refused(fit):
    states = []
    fit(saving=collecting(states))
    with pytest.raises(CheckpointError):
        fit(dataclasses.replace(CONFIG, opt="adamw", weight_decay=0.0), state={**states[2], "optimizer": {}})
    for part, value in (("model", {}), ("epoch", [{}]), ("best", None), ("outside", [])):
        with pytest.raises(CheckpointError):
            fit(state={**states[2], part: value})
