import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, Two

from surgeon.errors import OptionError
from surgeon.tuning import TuningConfig, compiling, make_accelerator, tune
from surgeon.tuning.compiling import missing_compiler, without_compiler

CPU = torch.device("cpu")
COMPILE = torch.compile


@pytest.fixture
def quick_compiler(monkeypatch):
    """Everything of torch.compile but the making of machine code, and what is compiled by it."""
    made = []

    def compile_quickly(model, **options):
        made.append(model)
        return COMPILE(model, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", compile_quickly)
    return made


def run(compile_, model, hook=None):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 1, 8, 8, generator=generator), torch.arange(12) % CLASSES)
    config = TuningConfig(epochs=2, lr=0.1, compile=compile_)
    loaders = DataLoader(data, 6), DataLoader(data, 6)
    return tune(model, *loaders, config, accelerator=make_accelerator("no", cpu=True), between_epochs=hook)


def test_a_compiled_training_is_the_plain_one_with_the_same_keys_and_edits(quick_compiler):
    networks = []
    for compile_ in (False, True):
        torch.manual_seed(0)
        model = Two()

        def hook(epoch, optimizer, model=model):
            with torch.no_grad():
                model.two[0].weight[0] = 0.5

        tuned = run(compile_, model, hook)
        assert tuned.best_state.keys() == model.state_dict().keys() == Two().state_dict().keys()
        networks.append(model)
    assert any(made is networks[1] for made in quick_compiler)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value)


def test_without_a_compiler_it_is_refused_or_said(monkeypatch):
    def broken(function, **options):
        def fail(*arguments):
            raise RuntimeError("No working C++ compiler found.\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    assert missing_compiler(CPU) == "No working C++ compiler found."
    with pytest.raises(OptionError, match=r"no compiler for cpu: No working C\+\+ compiler"):
        run(True, nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))
    config, note = without_compiler(TuningConfig(compile=True), CPU)
    assert config == TuningConfig()
    assert "trained without torch.compile" in note


def test_nothing_is_tried_where_nothing_is_to_be_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(pytest.fail, "compiled"))
    assert without_compiler(TuningConfig(), CPU) == (TuningConfig(), None)


def test_several_processes_train_without_it_and_say_so(monkeypatch):
    monkeypatch.setattr(compiling, "count", lambda: 2)
    config, note = without_compiler(TuningConfig(compile=True), CPU)
    assert config == TuningConfig()
    assert note.startswith("The network is trained without torch.compile. Several processes")
    with pytest.raises(OptionError, match="Several processes"):
        run(True, Two())
