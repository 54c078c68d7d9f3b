import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import OptionError
from surgeon.tuning import Held, TuningConfig, evaluate, logits, make_accelerator, tune


class Watched(nn.Module):
    """A linear classifier that notes the precision it computes in."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)
        self.seen = set()

    def forward(self, images):
        out = self.linear(images.flatten(1))
        self.seen.add((self.training, out.dtype))
        return out


def loader() -> DataLoader:
    images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(8) % 3), batch_size=4)


def test_training_and_evaluation_mix_but_weights_and_scores_stay_float32(fresh_process_state):
    accelerator = make_accelerator("bf16", cpu=True)
    model, teacher = Watched(), Watched().eval()
    tuned = tune(model, loader(), loader(), TuningConfig(epochs=1), accelerator=accelerator, teacher=teacher)
    assert model.seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert teacher.seen == {(False, torch.bfloat16)}
    assert {value.dtype for value in tuned.best_state.values()} == {torch.float32}
    assert logits(model, loader(), accelerator=accelerator).dtype == torch.float32
    assert evaluate(model, loader(), accelerator=accelerator).loss == tuned.epochs[-1].loss


def test_the_hook_sees_the_forward_that_the_author_wrote(fresh_process_state):
    model, forwards = Watched(), []
    config = TuningConfig(epochs=2)
    tune(
        *(model, loader(), loader(), config),
        accelerator=make_accelerator("bf16", cpu=True),
        between_epochs=lambda epoch, optimizer: forwards.append(model.forward.__func__),
    )
    assert forwards == [Watched.forward]
    assert not {"forward", "_original_forward"} & model.__dict__.keys()


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_network_divided_among_devices_is_refused(monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(OptionError, match=f"{kind}, which divides the network"):
        make_accelerator(cpu=True)


REFUSED = {
    "older": ({"FSDP_VERSION": "1"}, "Only the second version"),
    "offload": ({"FSDP_OFFLOAD_PARAMS": "true"}, "offload of parameters"),
    "checkpointing": ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "activation checkpointing"),
    "ignored": ({"FSDP_IGNORED_MODULES": "head.*"}, "ignored modules"),
    "unreadable": ({"FSDP_AUTO_WRAP_POLICY": "BY_TASTE"}, "cannot be read: Invalid auto wrap policy"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_configuration_of_fsdp_asks_for_beside_is_refused(monkeypatch, fresh_process_state, kind):
    given, said = REFUSED[kind]
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=said):
        make_accelerator(cpu=True)


def test_one_process_trains_the_whole_network_even_where_fsdp_is_configured(monkeypatch, fresh_process_state):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    model = Watched()
    tune(model, loader(), loader(), TuningConfig(epochs=1), accelerator=make_accelerator(cpu=True))
    assert (True, torch.float32) in model.seen


def test_what_is_held_stays_zero_in_mixed_precision(fresh_process_state):
    model, held = Watched(), Held()
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[1, ::2] = True
    with torch.no_grad():
        model.linear.weight.masked_fill_(mask, 0)
    held.hold({"linear.weight": mask})
    config = TuningConfig(epochs=2, lr=0.1, weight_decay=0.1, clip_grad=0.1)
    tune(model, loader(), loader(), config, accelerator=make_accelerator("bf16", cpu=True), held=held)
    assert not model.linear.weight[mask].any()
    assert model.linear.weight[~mask].all()
