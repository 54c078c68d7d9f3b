import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import OptionError
from surgeon.tuning import TuningConfig, evaluate, logits, make_accelerator, tune


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


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_network_divided_among_devices_is_refused(monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(OptionError, match=f"{kind}, which divides the network"):
        make_accelerator(cpu=True)
