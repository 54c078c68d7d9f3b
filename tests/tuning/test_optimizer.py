import dataclasses

import pytest
import timm
import torch
from torch import nn

from surgeon.errors import OptionError
from surgeon.tuning import TuningConfig, clear_moments, create_optimizer, create_schedule, make_accelerator
from surgeon.tuning.schedule import base_rate


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def take_steps(model, optimizer, steps=7):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(torch.randn(5, 4, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_weight_decay_spares_biases_and_normalization():
    model = small_network()
    optimizer = create_optimizer(model, TuningConfig(weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in decayed} == {"0.weight", "3.weight"}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_layer_decay_slows_every_layer_by_its_distance_from_the_last():
    model = timm.create_model("test_vit", num_classes=3)
    config = TuningConfig(epochs=2, lr=0.4, layer_decay=0.5, weight_decay=0.1)
    for sched, first in (("cosine", 0.4), ("none", 0.4)):
        optimizer = create_optimizer(model, config)
        create_schedule(optimizer, dataclasses.replace(config, sched=sched), 1)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
        # timm's order: the embedding, the blocks one by one, the last with its normalization, the classifier.
        depth = len(model.blocks)
        assert by_name["head.weight"] == pytest.approx(first)
        assert by_name["norm.weight"] == pytest.approx(first / 2)
        for block in range(depth):
            assert by_name[f"blocks.{block}.mlp.fc1.weight"] == pytest.approx(first / 2 ** (depth - block))
        assert by_name["patch_embed.proj.weight"] == pytest.approx(first / 2 ** (depth + 1))
        assert base_rate(optimizer) == pytest.approx(first)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.norm.weight)] == 0
    assert decays[id(model.head.weight)] == 0.1


def test_layer_decay_of_a_network_without_an_order_is_refused():
    with pytest.raises(OptionError, match="order of its layers"):
        create_optimizer(small_network(), TuningConfig(layer_decay=0.5))


def test_sgd_step_by_hand():
    # Plain momentum, lr 0.1, decay 0.5: g = 1 + 0.5·w; v = g, then v = 0.9 v + g.
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    config = TuningConfig(opt="momentum", lr=0.1, momentum=0.9, weight_decay=0.5)
    # One row of one column is a matrix, and is decayed.
    optimizer = create_optimizer(model, config)
    for expected in (2 - 0.1 * 2, 1.8 - 0.1 * (0.9 * 2 + 1.9)):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_an_unknown_optimizer_is_refused_with_near_names():
    with pytest.raises(OptionError) as caught:
        create_optimizer(small_network(), TuningConfig(opt="adamm"))
    assert "adamm" in caught.value.problem
    assert "adam" in caught.value.remedy


def test_nothing_to_train_is_refused():
    model = small_network().requires_grad_(False)
    with pytest.raises(OptionError, match="frozen"):
        create_optimizer(model, TuningConfig())


@pytest.mark.parametrize(
    "index",
    [torch.tensor([1, 4]), (slice(None), torch.tensor([0, 3])), (slice(1, 3), slice(0, 2)), ...],
    ids=["rows", "columns", "block", "all"],
)
def test_momentum_is_zero_at_the_index_and_bitwise_kept_elsewhere(index):
    model = small_network()
    optimizer = create_optimizer(model, TuningConfig())
    take_steps(model, optimizer)
    weight = model[0].weight
    before = optimizer.state[weight]["momentum_buffer"].clone()
    others = {p: optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters() if p is not weight}
    clear_moments(optimizer, weight, index)
    edited = torch.zeros(weight.shape, dtype=torch.bool)
    edited[index] = True
    after = optimizer.state[weight]["momentum_buffer"]
    assert before[edited].count_nonzero() == edited.sum()
    assert after[edited].count_nonzero() == 0
    assert torch.equal(after[~edited], before[~edited])
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], kept) for p, kept in others.items())


def test_adam_forgets_both_moments_but_counts_on():
    model = small_network()
    optimizer = create_optimizer(model, TuningConfig(opt="adamw"))
    take_steps(model, optimizer)
    state = optimizer.state[model[0].weight]
    clear_moments(optimizer, model[0].weight, torch.tensor([2]))
    assert state["exp_avg"][2].count_nonzero() == 0
    assert state["exp_avg_sq"][2].count_nonzero() == 0
    assert state["exp_avg"][3].count_nonzero() == 4
    assert state["exp_avg_sq"][3].count_nonzero() == 4
    assert float(state["step"]) == 7


@pytest.mark.parametrize(
    "name", ["sgd", "adamw", "lamb", "lion", "rmsproptf", "adan", "muon", "adafactor", "madgrad", "lookahead_adam"]
)
def test_after_an_edit_no_optimizer_pulls_back_to_the_old_weights(name):
    """With no gradient and no decay, an edited row whose memory is cleared has to stay where it was put."""
    model = small_network()
    optimizer = create_optimizer(model, TuningConfig(opt=name, weight_decay=0.0))
    take_steps(model, optimizer)
    weight = model[0].weight
    with torch.no_grad():
        weight[1] = 7.0
    clear_moments(optimizer, weight, torch.tensor([1]))
    for _ in range(7):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert weight[1].detach() == pytest.approx(torch.full((4,), 7.0), rel=1e-5)


def test_the_wrapped_optimizer_and_one_without_memory_are_accepted():
    model = small_network()
    plain = create_optimizer(model, TuningConfig())
    clear_moments(plain, model[0].weight, torch.tensor([0]))
    assert len(plain.state) == 0
    accelerator = make_accelerator("no", cpu=True)
    wrapped = accelerator.prepare_optimizer(plain)
    take_steps(model, wrapped)
    clear_moments(wrapped, model[0].weight)
    assert plain.state[model[0].weight]["momentum_buffer"].count_nonzero() == 0
    accelerator.free_memory()
