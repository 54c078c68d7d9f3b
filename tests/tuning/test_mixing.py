import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

from surgeon.errors import OptionError
from surgeon.tuning import Objective, TuningConfig
from surgeon.tuning.mixing import Mixing, check_mixable

LABELS = torch.tensor([0, 2, 1, 1, 3, 0])


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def classifier() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 4))


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_and_loss_are_timm_s(alphas, smoothing):
    model, changed = classifier(), 0
    for seed in range(4):
        np.random.seed(seed)
        theirs, targets = Mixup(*alphas, label_smoothing=smoothing, num_classes=4)(images(), LABELS)
        expected = SoftTargetCrossEntropy()(model(theirs), targets)
        np.random.seed(seed)
        ours, _ = Mixing(*alphas)(images())
        assert torch.equal(ours, theirs)
        # Of small images cutmix sometimes cuts nothing out.
        changed += not torch.equal(ours, images())
        np.random.seed(seed)
        loss = Objective(smoothing=smoothing, mixing=Mixing(*alphas))(model, (images(), LABELS))
        torch.testing.assert_close(loss, expected)
    assert changed >= 2


def test_shares_by_hand_with_a_last_image_that_has_no_partner():
    given = images(5)
    np.random.seed(0)
    mixed, shares = Mixing(0.4, 0.0)(given)
    share = shares[0, 0].item()
    assert 0 < share < 1
    expected = torch.eye(5)
    for place in range(4):
        expected[place, place] = share
        expected[place, 3 - place] = 1 - share
    torch.testing.assert_close(shares, expected)
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", shares, given))
    assert torch.equal(given, images(5))


def test_a_single_image_is_left_alone():
    mixed, shares = Mixing(0.4, 1.0)(images(1))
    assert torch.equal(mixed, images(1))
    assert shares.tolist() == [[1.0]]


def test_the_teacher_sees_the_mixed_images():
    seen = []
    teacher = classifier()
    teacher.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model = classifier()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    Objective(teacher=teacher, mixing=Mixing(0.4, 0.0))(model, (images(), LABELS))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], images())


def test_batches_of_one_image_are_refused():
    check_mixable(TuningConfig(), 1)
    check_mixable(TuningConfig(mixup=0.2), None)
    for config in (TuningConfig(mixup=0.2), TuningConfig(cutmix=1.0)):
        with pytest.raises(OptionError, match="batch size is 1"):
            check_mixable(config, 1)
