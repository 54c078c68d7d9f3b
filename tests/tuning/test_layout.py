import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, Two

from surgeon.tuning import TuningConfig, make_accelerator, tune
from surgeon.tuning.layout import channels_first, channels_last, uses_channels_last


def lies_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_auto_is_for_gpus():
    answers = [uses_channels_last("auto", torch.device(name)) for name in ("cpu", "cuda", "mps")]
    assert answers == [False, True, False]
    assert uses_channels_last("yes", torch.device("cpu"))
    assert not uses_channels_last("no", torch.device("cuda"))


def test_values_and_parameters_stay_what_they_are():
    model = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3), nn.Linear(3, 4)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model[0].weight
    with channels_last(model):
        assert model[0].weight is weight
        assert lies_last(weight)
        with channels_first(model):
            assert weight.is_contiguous()
        assert lies_last(weight)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert weight.is_contiguous()


@pytest.mark.parametrize("ema", [False, True])
def test_training_lays_out_images_too_and_a_hook_finds_the_usual_layout(ema):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 1, 8, 8, generator=generator), torch.arange(12) % CLASSES)
    results = []
    for setting in ("no", "yes"):
        torch.manual_seed(0)
        model, seen, hooked = Two(), set(), []
        model.two[0].register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.add((module.training, lies_last(output)))
        )
        config = TuningConfig(epochs=2, lr=0.1, channels_last=setting, model_ema=ema)
        tuned = tune(
            *(model, DataLoader(data, 6), DataLoader(data, 6), config),
            accelerator=make_accelerator("no", cpu=True),
            between_epochs=lambda epoch, optimizer, model=model, hooked=hooked: hooked.append(
                model.two[0].weight.is_contiguous()
            ),
        )
        assert seen == {(True, setting == "yes"), (False, setting == "yes")}
        assert hooked == [True]
        assert all(value.is_contiguous() for value in (*model.state_dict().values(), *tuned.best_state.values()))
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value)
