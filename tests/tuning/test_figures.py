"""Figures of tasks of one's own: what a metric is given, and what it may return."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import DataError, OptionError
from surgeon.tuning import Metrics, make_accelerator, mean_loss, score_by

VALUES = torch.tensor([[1.0], [2.0], [3.0], [4.0], [6.0]])


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


def loader(batch_size: int = 2) -> DataLoader:
    """Five images in batches of two: the last is smaller."""
    return DataLoader(TensorDataset(VALUES), batch_size)


def test_a_metric_gets_every_image_once_in_evaluation_mode_and_without_gradients(accelerator):
    model = nn.Linear(1, 1).train()
    shown = []

    def metric(model, batches):
        assert not model.training
        assert not torch.is_grad_enabled()
        images = torch.cat([images for (images,) in batches])
        return {"largest": images.max(), "images": len(images)}

    def track(batches, description, total_images=None, *, training=None):
        shown.append((description, total_images, training))
        yield from batches

    scores = score_by(metric, loader(), accelerator=accelerator, track=track)(model)
    assert scores == Metrics({"largest": 6.0, "images": 5.0}, best_by="largest")
    assert all(type(value) is float for value in scores.values.values())
    assert model.training
    assert shown == [("evaluating", 5, None)]


def test_a_metric_may_say_what_is_best(accelerator):
    own = Metrics({"a": 1.0, "b": 2.0}, best_by="b", larger_is_better=False)
    score = score_by(lambda model, batches: list(batches) and own, loader(), accelerator=accelerator)
    assert score(nn.Identity()) is own


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (0.5, "returned a float"),
        ({}, "no figure"),
        ({"by class": torch.zeros(2)}, "not numbers by name"),
        (None, "returned a NoneType"),
    ],
)
def test_what_is_no_figure_is_refused(accelerator, returned, words):
    with pytest.raises(OptionError, match=words):
        score_by(lambda model, batches: returned, loader(), accelerator=accelerator)(nn.Identity())


def test_no_batch_is_refused(accelerator):
    empty = DataLoader(TensorDataset(VALUES[:0]), 2)
    score = score_by(mean_loss(lambda model, batch: batch[0].mean(), accelerator), empty, accelerator=accelerator)
    with pytest.raises(DataError, match="no image to evaluate"):
        score(nn.Identity())


def test_the_mean_loss_is_that_of_the_images_and_not_of_the_batches(accelerator):
    metric = mean_loss(lambda model, batch: model(batch[0]).mean(), accelerator)
    scores = score_by(metric, loader(), accelerator=accelerator)(nn.Identity())
    # The mean of the batches' means would be (1.5 + 3.5 + 6) / 3.
    assert scores.values == {"loss": pytest.approx(16 / 5)}
    assert scores.rank == pytest.approx(-16 / 5)
    # NaN is no best epoch.
    assert Metrics({"loss": math.nan}, best_by="loss", larger_is_better=False).rank == -math.inf
