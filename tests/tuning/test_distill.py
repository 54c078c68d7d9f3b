import math
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from surgeon.errors import ArchitectureError, OptionError
from surgeon.tuning import Objective, soft_target_loss
from surgeon.tuning.outputs import split_outputs


def returning(outputs) -> nn.Module:
    model = nn.Module()
    model.forward = lambda images: outputs
    return model


IMAGES = torch.zeros(1, 3, 2, 2)


def test_soft_targets_by_hand():
    # T = 2: teacher softmax(ln 9 / 2, 0) = (3/4, 1/4), student (1/2, 1/2).
    # 4 · (3/4 ln(3/2) + 1/4 ln(1/2)) = 0.5232481437645479
    teacher = torch.tensor([[math.log(9.0), 0.0]])
    loss = soft_target_loss(torch.zeros(1, 2), teacher, 2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)
    assert loss.item() == pytest.approx(0.5232481437645479, rel=1e-6)


def test_soft_targets_are_a_mean_over_images_and_zero_for_equal_logits():
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 6, 4, generator=generator)
    each = torch.stack([soft_target_loss(s[None], t[None], 3.0) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(soft_target_loss(student, teacher, 3.0), each.mean())
    assert soft_target_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_gradient_is_that_of_the_cross_entropy_with_soft_targets():
    # Hinton et al., eq. 2: dC/ds = (softmax(s/T) - softmax(t/T)) / T, here times T² and over the batch.
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 4, generator=generator)
    student.requires_grad_()
    soft_target_loss(student, teacher, 4.0).backward()
    expected = 4.0 * (functional.softmax(student.detach() / 4, 1) - functional.softmax(teacher / 4, 1)) / 5
    torch.testing.assert_close(student.grad, expected)


def test_label_smoothing_by_hand():
    # Logits (ln 3, 0): p = (3/4, 1/4). Smoothing 0.2: target (0.9, 0.1).
    loss = Objective(smoothing=0.2)(returning(torch.tensor([[math.log(3.0), 0.0]])), (IMAGES, torch.tensor([0])))
    assert loss.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), rel=1e-6)


def test_auxiliary_logits_weigh_three_tenths_each():
    outputs = namedtuple("Outputs", ["logits", "aux2", "features", "aux1", "none"])
    logits = torch.tensor([[math.log(3.0), 0.0]])
    flat = torch.zeros(1, 2)
    model = returning(outputs(logits, flat, torch.ones(1, 8), flat, None))
    loss = Objective()(model, (IMAGES, torch.tensor([0])))
    assert loss.item() == pytest.approx(-math.log(0.75) + 0.6 * math.log(2), rel=1e-6)


def test_teacher_and_labels_are_weighted():
    teacher = returning(torch.tensor([[math.log(9.0), 0.0]]))
    objective = Objective(teacher=teacher, teacher_weight=0.25, temperature=2.0)
    loss = objective(returning(torch.zeros(1, 2)), (IMAGES, torch.tensor([1])))
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * 0.5232481437645479, rel=1e-6)


def test_a_teacher_of_other_classes_is_refused():
    objective = Objective(teacher=returning(torch.zeros(1, 1000)))
    with pytest.raises(OptionError, match=r"1000 classes, but the network 10"):
        objective(returning(torch.zeros(1, 10)), (IMAGES, torch.tensor([0])))


def test_outputs_may_be_nested_or_named():
    main, auxiliary = torch.zeros(2, 3), torch.ones(2, 3)
    named = OrderedDict(out=main, features=torch.zeros(2, 8, 4, 4), aux=auxiliary)
    for outputs in (named, (main, [auxiliary, torch.zeros(2, 4)])):
        first, others = split_outputs(outputs)
        assert first is main
        assert len(others) == 1
        assert others[0] is auxiliary
    assert split_outputs(main) == (main, ())


@pytest.mark.parametrize("outputs", [torch.zeros(2, 8, 4, 4), (), None], ids=["features", "empty", "nothing"])
def test_a_network_without_logits_is_refused(outputs):
    with pytest.raises(ArchitectureError, match="not one row of class logits"):
        split_outputs(outputs)
