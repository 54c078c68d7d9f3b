import dataclasses

import pytest
import torch

from surgeon.errors import OptionError
from surgeon.tuning import TuningConfig, make_accelerator
from surgeon.tuning.accelerator import _automatic_precision


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup_epochs", 11),
        ("decay_rate", 0.0),
        ("decay_milestones", (3, 2)),
        ("layer_decay", 1.5),
        ("smoothing", 1.0),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
        ("model_ema_decay", 1.0),
        ("mixed_precision", "fp8"),
        ("accumulate", 0),
        ("channels_last", "maybe"),
        ("teacher_weight", 1.5),
        ("teacher_temperature", 0.0),
        ("orthogonal_loss", -0.01),
        ("orthogonal_loss", float("inf")),
        ("orthogonal_loss", float("nan")),
        ("clip_grad", 0.0),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_named(option, value):
    with pytest.raises(OptionError) as caught:
        TuningConfig(**{option: value})
    assert option in caught.value.problem
    assert str(value) in caught.value.problem
    assert caught.value.remedy


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TuningConfig().lr = 1.0


def test_a_cpu_is_never_mixed_by_default(fresh_process_state, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    accelerator = make_accelerator(cpu=True)
    assert accelerator.device == torch.device("cpu")
    assert accelerator.mixed_precision == "no"


def test_the_launcher_s_precision_is_taken(fresh_process_state, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_accelerator(cpu=True).mixed_precision == "bf16"


@pytest.mark.parametrize(("supported", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_what_the_gpu_computes_in(monkeypatch, supported, chosen):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert _automatic_precision(torch.device("cuda")) == chosen


def test_fp16_on_a_cpu_is_refused_and_leaves_the_process_usable(fresh_process_state):
    with pytest.raises(OptionError, match="fp16"):
        make_accelerator("fp16", cpu=True)
    assert make_accelerator("no", cpu=True).mixed_precision == "no"


def test_a_second_precision_in_one_process_is_refused(fresh_process_state):
    make_accelerator("no", cpu=True)
    with pytest.raises(OptionError, match="one precision a process"):
        make_accelerator("bf16", cpu=True)
