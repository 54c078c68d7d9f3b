import copy
import dataclasses
import math
import random

import numpy
import pytest
import torch
from pieces import images, network, same_bits, shuffled
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from surgeon.errors import DataError, OptionError
from surgeon.tuning import (
    EpochByEpoch,
    Metrics,
    Tuned,
    TuningConfig,
    clear_moments,
    evaluate,
    make_accelerator,
    tune,
)


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


@pytest.fixture
def fit(accelerator):
    def run(model: nn.Module, config: TuningConfig, *, train=None, val=None, **options) -> Tuned:
        # A loader without a batch is false.
        train = shuffled(images()) if train is None else train
        val = DataLoader(images(), 8) if val is None else val
        return tune(model, train, val, config, accelerator=accelerator, **options)

    return run


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def test_learns_and_records_every_epoch(fit, accelerator):
    model = network()
    seen = []
    tuned = fit(model, TuningConfig(epochs=6, lr=0.1), on_epoch=seen.append)
    assert tuned.epochs == tuple(seen)
    assert [record.epoch for record in tuned.epochs] == list(range(6))
    assert tuned.epochs[-1].train_loss < tuned.epochs[0].train_loss
    scores = evaluate(model, DataLoader(images(), 8), accelerator=accelerator)
    last = tuned.epochs[-1]
    assert (last.top1, last.top5, last.loss) == (scores.top1, scores.top5, scores.loss)
    assert last.top1 > 80
    assert last.images_per_second > 0
    assert last.seconds > 0


def test_two_updates_by_hand(fit):
    # A linear network on one image of two classes, softmax regression: dL/dw = (p - y)·x.
    # lr follows the cosine of two updates: 0.5, then 0.25.
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.zeros_(model[1].weight)
    one = DataLoader(TensorDataset(torch.ones(1, 1, 1, 1), torch.tensor([0])), 1)
    config = TuningConfig(epochs=2, opt="momentum", lr=0.5, momentum=0.9, weight_decay=0.0)
    tuned = fit(model, config, train=one, val=one)
    first = 0.5 * 0.5
    p = 1 / (1 + math.exp(-2 * first))
    second = first + 0.25 * (0.9 * 0.5 + (1 - p))
    torch.testing.assert_close(model[1].weight.detach(), torch.tensor([[second], [-second]]))
    assert [record.lr for record in tuned.epochs] == pytest.approx([0.5, 0.25])
    assert [record.train_loss for record in tuned.epochs] == pytest.approx([math.log(2), -math.log(p)], rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_bytes(fit, dropout):
    config = TuningConfig(epochs=2, lr=0.1, seed=5)
    results = []
    for order, noise in ((0, 11), (1, 12)):
        # Neither the loader's own seed nor the process's random numbers may matter.
        torch.manual_seed(noise)
        random.seed(noise)
        numpy.random.seed(noise)
        model = network(dropout)
        tuned = fit(model, config, train=shuffled(images(), seed=order))
        results.append((snapshot(model), tuned.best_state, [record.train_loss for record in tuned.epochs]))
    assert same_bits(results[0][0], results[1][0])
    assert same_bits(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]


def test_another_seed_gives_another_order(fit):
    models = network(), network()
    for seed, model in enumerate(models):
        fit(model, TuningConfig(epochs=1, lr=0.1, seed=seed))
    assert not same_bits(snapshot(models[0]), snapshot(models[1]))


def test_epochs_differ_in_order(fit):
    class Spy(Dataset):
        def __init__(self):
            self.data, self.order = images(), []

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            self.order.append(index)
            return self.data[index]

    spy = Spy()
    fit(network(), TuningConfig(epochs=2), train=shuffled(spy))
    first, second = spy.order[:24], spy.order[24:]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_a_sampler_is_told_the_epoch_in_every_tuning(fit):
    told = []

    class Told(RandomSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    loader = DataLoader(images(), 8, sampler=Told(images()))
    for _ in range(2):
        fit(network(), TuningConfig(epochs=2), train=loader)
    # accelerate tells it once more when the pass begins.
    assert told == [0, 0, 1, 1] * 2


@pytest.mark.parametrize("edited", [False, True])
def test_the_averaged_weights_are_scored_kept_and_handed_back(fit, accelerator, edited):
    model, after_updates, starts = network(), [], [0]

    def track(batches, description, total_images=None, *, training=None):
        for batch in batches:
            yield batch
            if training is not None:
                after_updates.append(snapshot(model))

    def hook(epoch, optimizer):
        if edited and epoch == 1:
            starts.append(len(after_updates))
            with torch.no_grad():
                model[3].weight.neg_()

    config = TuningConfig(epochs=3, lr=0.1, model_ema=True, model_ema_decay=0.5)
    tuned = fit(model, config, track=track, between_epochs=hook)
    expected = {}
    for number, state in enumerate(after_updates[starts[-1] :]):
        decay = min(0.5, 1 - (1 + number) ** (-2 / 3))
        expected = {
            key: decay * expected.get(key, value) + (1 - decay) * value if value.is_floating_point() else value
            for key, value in state.items()
        }
    assert len(after_updates) == 9
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert not torch.equal(model[3].weight, after_updates[-1]["3.weight"])
    scores = evaluate(model, DataLoader(images(), 8), accelerator=accelerator)
    assert (scores.top1, scores.loss) == (tuned.epochs[-1].top1, tuned.epochs[-1].loss)
    best = network()
    best.load_state_dict(tuned.best_state)
    scores = evaluate(best, DataLoader(images(), 8), accelerator=accelerator)
    assert (scores.top1, scores.loss) == (tuned.epochs[tuned.best_epoch].top1, tuned.epochs[tuned.best_epoch].loss)


def test_mixed_images_follow_the_seed_alone_and_train(fit):
    states = []
    for noise in (1, 2):
        numpy.random.seed(noise)
        model = network()
        tuned = fit(model, TuningConfig(epochs=6, lr=0.2, mixup=0.2, cutmix=1.0, seed=3))
        states.append(snapshot(model))
    assert same_bits(*states)
    assert tuned.epochs[-1].top1 > 60


def test_mixing_beside_an_objective_is_refused(fit):
    with pytest.raises(OptionError, match="mixed labels"):
        fit(network(), TuningConfig(epochs=1, mixup=0.2), objective=lambda model, batch: model(batch[0]).mean())


def test_the_process_s_random_numbers_are_untouched(fit):
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + random.random() + numpy.random.rand() + torch.rand(()), label

    random.seed(1)
    numpy.random.seed(1)
    expected = random.random(), numpy.random.rand()
    random.seed(1)
    numpy.random.seed(1)
    fit(network(0.5), TuningConfig(epochs=1), train=shuffled(Augmented(*images().tensors)))
    assert (random.random(), numpy.random.rand()) == expected


def test_frozen_parameters_and_running_statistics_keep_every_bit(fit):
    model = network()
    # The second BatchNorm's scale alone is frozen: it goes on counting.
    frozen = ("0.weight", "1.weight", "1.bias", "4.weight")
    before = snapshot(model)
    fit(model, TuningConfig(epochs=2, lr=0.1, weight_decay=0.1), frozen=frozen)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {
        *("3.weight", "3.bias", "4.bias", "8.weight", "8.bias"),
        *("4.running_mean", "4.running_var", "4.num_batches_tracked"),
    }
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("by_epochs", [False, True])
def test_patterns_freeze_like_names(fit, accelerator, by_epochs):
    model = network()
    before = snapshot(model)
    config = TuningConfig(epochs=2, lr=0.1, weight_decay=0.1, freeze=("0", "1", "8.bias"))
    if by_epochs:
        list(EpochByEpoch(model, shuffled(images()), config, accelerator=accelerator))
    else:
        fit(model, config)
    kept = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert kept == {"0.weight", *(key for key in before if key.startswith("1.")), "8.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_batch_norm_without_parameters_is_frozen_by_its_running_mean(fit):
    model = network()
    model[1] = nn.BatchNorm2d(4, affine=False)
    before = snapshot(model)
    fit(model, TuningConfig(epochs=1), frozen=["1.running_mean"])
    assert torch.equal(model[1].running_var, before["1.running_var"])
    fit(model, TuningConfig(epochs=1))
    assert not torch.equal(model[1].running_var, before["1.running_var"])


def test_an_unknown_frozen_name_is_refused(fit):
    with pytest.raises(OptionError, match=r"layer9\.weight"):
        fit(network(), TuningConfig(epochs=1), frozen=["layer9.weight"])


def test_modes_gradients_and_forward_are_put_back(fit):
    model, teacher = network().eval(), network().train()
    model[0].weight.requires_grad_(False)
    before = snapshot(model)
    fit(model, TuningConfig(epochs=1), teacher=teacher)
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in teacher.modules())
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad
    assert torch.equal(model[0].weight, before["0.weight"])
    assert "forward" not in model.__dict__
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_best_epoch_is_kept_beside_the_last(fit, accelerator):
    """A hook that ruins the classifier makes every epoch but the first a bad one."""
    model = network()

    def ruin(epoch, optimizer):
        with torch.no_grad():
            model[8].weight.zero_()
            model[8].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))

    tuned = fit(model, TuningConfig(epochs=3, lr=0.3), between_epochs=ruin, val=DataLoader(images(), 8))
    assert tuned.best_epoch == 0
    assert tuned.epochs[0].top1 > tuned.epochs[2].top1
    best = network()
    best.load_state_dict(tuned.best_state)
    scores = evaluate(best, DataLoader(images(), 8), accelerator=accelerator)
    assert scores.top1 == tuned.epochs[0].top1
    assert not torch.equal(tuned.best_state["8.weight"], model[8].weight)


def test_among_equals_the_first_epoch_is_best(fit):
    tuned = fit(network(), TuningConfig(epochs=3, lr=1e-9))
    assert len({record.top1 for record in tuned.epochs}) == 1
    assert tuned.best_epoch == 0


def test_the_hook_runs_between_epochs_with_the_optimizer_itself(fit):
    model = network()
    calls, memory = [], []

    def hook(epoch, optimizer):
        calls.append((epoch, type(optimizer).__name__, type(optimizer).__module__))
        clear_moments(optimizer, model[3].weight, torch.tensor([2]))
        memory.append(optimizer.state[model[3].weight]["momentum_buffer"].clone())
        return {"edited": epoch}

    tuned = fit(model, TuningConfig(epochs=3), between_epochs=hook)
    assert calls == [(1, "SGD", "torch.optim.sgd"), (2, "SGD", "torch.optim.sgd")]
    assert [record.operation for record in tuned.epochs] == [None, {"edited": 1}, {"edited": 2}]
    assert all(buffer[2].count_nonzero() == 0 and buffer[1].count_nonzero() > 0 for buffer in memory)


def test_a_teacher_of_all_the_weight_makes_labels_idle(fit):
    teacher, right, wrong = network(), network(), network()
    fit(teacher, TuningConfig(epochs=6, lr=0.1))
    before = snapshot(teacher)
    config = TuningConfig(epochs=4, lr=0.1, teacher_weight=1.0, teacher_temperature=2.0)
    pixels, labels = images().tensors
    tuned = fit(right, config, teacher=teacher)
    fit(wrong, config, teacher=teacher, train=shuffled(TensorDataset(pixels, (labels + 1) % 3)))
    assert same_bits(snapshot(right), snapshot(wrong))
    assert tuned.epochs[-1].train_loss < tuned.epochs[0].train_loss
    assert same_bits(snapshot(teacher), before)


def test_the_gradient_is_clipped(fit):
    # One plain update without momentum moves all weights together by lr · min(‖g‖, clip).
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = TuningConfig(epochs=1, opt="momentum", lr=1.0, momentum=0.0, weight_decay=0.0, clip_grad=0.01)
    fit(model, config, train=DataLoader(images(), 24))
    moved = math.sqrt(sum((p.detach() - before[name]).square().sum().item() for name, p in model.named_parameters()))
    assert moved == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("batch_size", "count"), [(4, 24), (5, 25)], ids=["whole groups", "a last group of two"])
def test_accumulated_batches_are_one_batch_and_one_update(batch_size, count):
    model, whole = (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)) for _ in range(2))
    whole.load_state_dict(model.state_dict())
    config, data = TuningConfig(epochs=2, lr=0.1, momentum=0.5), images(count)
    for network_, size, accumulate in ((model, batch_size, 3), (whole, 3 * batch_size, 1)):
        accelerator = make_accelerator("no", cpu=True, accumulate=accumulate)
        tuned = tune(network_, DataLoader(data, size), DataLoader(data, 8), config, accelerator=accelerator)
        assert [record.lr for record in tuned.epochs] == pytest.approx([0.1, 0.05])
    torch.testing.assert_close(model[1].weight, whole[1].weight)


class Boastful(IterableDataset):
    """A stream that tells another length than it has."""

    def __init__(self, told: int) -> None:
        self.told = told

    def __len__(self) -> int:
        return self.told

    def __iter__(self):
        return iter(images(20))


@pytest.mark.parametrize("told", [12, 16, 20, 40])
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_what_is_left_at_the_end_of_an_epoch_is_counted_and_not_foretold(told):
    model, whole = (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)) for _ in range(2))
    whole.load_state_dict(model.state_dict())
    config = TuningConfig(epochs=2, lr=0.1, momentum=0.5, sched="none")
    # Five batches of four are an update of three and one of two, as batches of twelve and eight are.
    for network_, train, accumulate in ((model, Boastful(told), 3), (whole, images(20), 1)):
        accelerator = make_accelerator("no", cpu=True, accumulate=accumulate)
        loader = DataLoader(train, 12 // accumulate)
        tune(network_, loader, DataLoader(images(), 8), config, accelerator=accelerator)
    torch.testing.assert_close(model[1].weight, whole[1].weight)


def test_an_accelerator_keeps_its_own_number_of_batches_an_update():
    accelerator = make_accelerator("no", cpu=True)
    config = TuningConfig(epochs=1, lr=0.01, accumulate=3)
    tune(network(), DataLoader(images(12), 2), DataLoader(images(), 8), config, accelerator=accelerator)
    assert accelerator.gradient_accumulation_steps == 1


def test_a_loss_that_is_no_number_is_refused_with_the_learning_rate(fit):
    poisoned = TensorDataset(torch.full((8, 1, 6, 6), math.nan), torch.zeros(8, dtype=torch.int64))
    model = network().eval()
    with pytest.raises(OptionError) as caught:
        fit(model, TuningConfig(epochs=3, lr=0.25), train=DataLoader(poisoned, 8))
    assert "nan" in caught.value.problem
    assert "epoch 1 of 3" in caught.value.problem
    assert "0.25" in caught.value.remedy
    assert not model.training


def test_a_diverged_run_stops_before_the_epoch_ends(fit):
    stepped = []
    poisoned = TensorDataset(torch.full((300, 1, 6, 6), math.inf), torch.zeros(300, dtype=torch.int64))

    def track(batches, description, total_images=None, *, training=None):
        for batch in batches:
            stepped.append(len(batch[1]))
            yield batch

    with pytest.raises(OptionError):
        fit(network().eval(), TuningConfig(epochs=1), train=DataLoader(poisoned, 1), track=track)
    assert len(stepped) == 100


@pytest.mark.parametrize("optimizer", ["adamw", "lookahead_sgd", "adahessian"])
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_other_optimizers_of_timm_train(fit, optimizer):
    tuned = fit(network(), TuningConfig(epochs=4, opt=optimizer, lr=0.05))
    assert tuned.epochs[-1].train_loss < tuned.epochs[0].train_loss


def test_no_epoch_and_no_image_are_refused(fit):
    with pytest.raises(OptionError, match="No epoch"):
        fit(network(), TuningConfig(epochs=0))
    with pytest.raises(DataError, match="no batch"):
        fit(network(), TuningConfig(epochs=1), train=DataLoader(images(4), 8, drop_last=True))


def test_progress_names_the_epoch_and_counts_the_images(fit):
    told = []

    def track(batches, description, total_images=None, *, training=None):
        told.append((description, total_images))
        yield from batches

    fit(network(), TuningConfig(epochs=2), track=track)
    assert told == [("epoch 1/2", 24), ("evaluating", 24), ("epoch 2/2", 24), ("evaluating", 24)]


def test_the_accelerator_keeps_nothing_afterwards(fit, accelerator):
    fit(network(), TuningConfig(epochs=1))
    assert not accelerator._models
    assert not accelerator._optimizers
    assert not accelerator._dataloaders


def test_epoch_by_epoch_gives_the_same_bits(fit, accelerator):
    config = TuningConfig(epochs=3, lr=0.1, seed=4)
    whole, stepwise = network(dropout=0.5), network(dropout=0.5)
    called = []
    fit(whole, config)
    epochs = EpochByEpoch(
        stepwise, shuffled(images()), config, accelerator=accelerator, between_epochs=lambda e, o: called.append(e)
    )
    assert list(epochs) == [0, 1, 2]
    assert called == [1, 2]
    assert same_bits(whole.state_dict(), stepwise.state_dict())


def test_a_training_that_is_closed_early_puts_the_modes_back(accelerator):
    model = network().eval()
    epochs = EpochByEpoch(model, shuffled(images()), TuningConfig(epochs=3), accelerator=accelerator)
    next(epochs)
    assert model.training
    epochs.close()
    assert not model.training


class Pairs(Dataset):
    """Batches that are no (images, labels): a mapping with two numbers an item."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"x": torch.tensor([1.0 + index]), "y": torch.tensor([2.0 * (1 + index)])}


def squared_error(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


def line() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


@pytest.mark.parametrize("larger_is_better", [False, True])
def test_any_task_brings_its_own_batches_loss_and_scores(fit, larger_is_better):
    # y = 2x in batches of 2, 2 and 1: the mean loss over the images of one epoch of rate 0 is 4 · mean(x²) = 44.
    states = []

    def score(model):
        states.append(model.weight.item())
        error = abs(model.weight.item() - 2)
        return Metrics({"error": error, "seen": len(states)}, "error", larger_is_better)

    model = line()
    config = TuningConfig(epochs=4, lr=0.02, opt="momentum", momentum=0.0, weight_decay=0.0)
    loader = DataLoader(Pairs(), 2)
    tuned = tune(
        model, loader, None, config, accelerator=make_accelerator("no", cpu=True), objective=squared_error, score=score
    )
    errors = [record.metrics["error"] for record in tuned.epochs]
    assert errors == [abs(weight - 2) for weight in states]
    assert errors == sorted(errors, reverse=True)
    assert tuned.best_epoch == (0 if larger_is_better else 3)
    assert tuned.best_state["weight"].item() == states[tuned.best_epoch]
    assert [(record.top1, record.top5, record.loss) for record in tuned.epochs] == [(None, None, None)] * 4

    still = fit(
        line(), dataclasses.replace(config, epochs=1, lr=1e-9), train=loader, objective=squared_error, score=score
    )
    assert still.epochs[0].train_loss == pytest.approx(44, rel=1e-4)


def test_the_losses_of_stepwise_training_may_be_ones_own(accelerator):
    model = line()
    config = TuningConfig(epochs=2, lr=0.002)
    assert list(
        EpochByEpoch(model, DataLoader(Pairs(), 2), config, accelerator=accelerator, objective=squared_error)
    ) == [0, 1]
    assert 0 < model.weight.item() < 2


def test_an_epoch_whose_score_is_no_number_is_never_the_best(fit):
    values = iter([math.nan, -5.0, math.nan])
    tuned = fit(network(), TuningConfig(epochs=3), score=lambda model: Metrics({"iou": next(values)}, "iou"))
    assert tuned.best_epoch == 1


def test_what_an_objective_and_a_score_have_to_be(fit):
    config = TuningConfig(epochs=1)
    with pytest.raises(OptionError, match=r"shape \[8\]"):
        fit(network(), config, objective=lambda model, batch: model(batch[0]).sum(1))
    with pytest.raises(OptionError, match="float"):
        fit(network(), config, objective=lambda model, batch: 1.0)
    with pytest.raises(OptionError, match="teacher"):
        fit(network(), config, objective=lambda model, batch: model(batch[0]).mean(), teacher=network())
    with pytest.raises(OptionError, match="'iou'"):
        Metrics({"accuracy": 1.0}, "iou")
    with pytest.raises(OptionError, match="nothing to score"):
        tune(network(), shuffled(images()), None, config, accelerator=make_accelerator("no", cpu=True))
