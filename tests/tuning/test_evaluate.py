import gc
import math
import multiprocessing

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from surgeon.errors import ArchitectureError, DataError, OptionError
from surgeon.tuning import TuningConfig, compare_logits, evaluate, logits, make_accelerator, tune


class Rows(nn.Module):
    """Takes the logits from the image itself: `image[:, 0, 0]`."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images):
        return images[:, 0, 0]


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


def loader_of(rows, labels, batch_size=2, **options) -> DataLoader:
    images = torch.as_tensor(rows, dtype=torch.float32)[:, None, None]
    return DataLoader(TensorDataset(images, torch.as_tensor(labels)), batch_size=batch_size, **options)


# Rank of the label among seven classes: first, second, fifth, sixth, first.
ROWS = [
    [9, 1, 2, 3, 4, 5, 6],
    [9, 1, 2, 3, 4, 5, 6],
    [9, 1, 2, 3, 4, 5, 6],
    [9, 1, 2, 3, 4, 5, 6],
    [1, 1, 8, 1, 1, 1, 1],
]
LABELS = [0, 6, 3, 2, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_counts_are_exact_for_every_batch_size(accelerator, batch_size):
    scores = evaluate(Rows(), loader_of(ROWS, LABELS, batch_size), accelerator=accelerator)
    assert (scores.top1, scores.top5, scores.images) == (40.0, 80.0, 5)
    first = math.log(sum(math.exp(v) for v in ROWS[0]))
    last = math.log(math.exp(8) + 6 * math.exp(1))
    assert scores.loss == pytest.approx((4 * first - 9 - 6 - 3 - 2 + last - 8) / 5, rel=1e-6)


def test_images_of_a_dropped_batch_are_not_counted(accelerator):
    scores = evaluate(Rows(), loader_of(ROWS, LABELS, 2, drop_last=True), accelerator=accelerator)
    assert (scores.images, scores.top1, scores.top5) == (4, 25.0, 75.0)


def test_a_stream_that_tells_a_wrong_length_is_counted_exactly(accelerator):
    class Stream(IterableDataset):
        def __len__(self):
            return 4

        def __iter__(self):
            return (loader_of(ROWS, LABELS).dataset[index] for index in range(5))

    scores = evaluate(Rows(), DataLoader(Stream(), 3), accelerator=accelerator)
    assert (scores.images, scores.top1, scores.top5) == (5, 40.0, 80.0)


def test_top5_of_three_classes_is_always_right(accelerator):
    scores = evaluate(Rows(), loader_of([[1, 2, 3], [3, 2, 1]], [0, 1]), accelerator=accelerator)
    assert (scores.top1, scores.top5) == (0.0, 100.0)


def test_nan_is_never_right(accelerator):
    scores = evaluate(Rows(), loader_of([[math.nan] * 3, [3, 2, 1]], [0, 0]), accelerator=accelerator)
    assert (scores.top1, scores.top5) == (50.0, 50.0)
    assert math.isnan(scores.loss)


def test_every_module_keeps_its_mode_and_the_network_runs_in_evaluation(accelerator):
    seen = []
    model = Rows().train()
    model.norm.eval()
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    evaluate(model, loader_of(ROWS, LABELS), accelerator=accelerator)
    assert set(seen) == {(False, False)}
    assert model.training
    assert not model.norm.training


def test_logits_come_in_order_as_float32(accelerator):
    rows = logits(Rows(), loader_of(ROWS, LABELS), accelerator=accelerator)
    assert rows.dtype == torch.float32
    assert rows.device.type == "cpu"
    assert rows.tolist() == ROWS


def test_progress_is_told_the_number_of_images(accelerator):
    told = []

    def track(batches, description, total_images=None):
        told.append((description, total_images))
        yield from batches

    evaluate(Rows(), loader_of(ROWS, LABELS), accelerator=accelerator, track=track)
    logits(Rows(), loader_of(ROWS, LABELS, drop_last=True), accelerator=accelerator, track=track)
    assert told == [("evaluating", 5), ("collecting logits", 4)]


def test_no_image_is_refused(accelerator):
    empty = loader_of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    for measure in (evaluate, logits):
        with pytest.raises(DataError):
            measure(Rows(), empty, accelerator=accelerator)


def test_a_feature_map_is_not_an_answer(accelerator):
    with pytest.raises(ArchitectureError, match=r"\[2, 1, 1, 7\]"):
        evaluate(nn.Identity(), loader_of(ROWS, LABELS), accelerator=accelerator)


def test_drift_and_agreement_by_hand():
    # ‖(0,3,4,0)‖ / ‖(3,4,0,12)‖ = 5/13; the first image's answer moves from class 1 to class 1, the second's changes.
    reference = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    other = torch.tensor([[3.0, 7.0], [4.0, 12.0]])
    assert compare_logits(reference, other) == (pytest.approx(5 / 13), 1.0)
    assert compare_logits(reference, torch.tensor([[3.0, 4.0], [12.0, 0.0]])) == (
        pytest.approx(12 * math.sqrt(2) / 13),
        0.5,
    )


def test_drift_of_equal_and_of_zero_logits():
    zero = torch.zeros(2, 2)
    assert compare_logits(zero, zero) == (0.0, 1.0)
    assert compare_logits(zero, torch.eye(2))[0] == math.inf


def test_logits_of_other_classes_are_not_compared():
    with pytest.raises(OptionError, match=r"\[2, 3\].*\[2, 2\]"):
        compare_logits(torch.zeros(2, 2), torch.zeros(2, 3))


def test_workers_that_persist_are_there_once_however_often_one_evaluates(accelerator):
    data = TensorDataset(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    loader = DataLoader(data, 2, num_workers=1, persistent_workers=True)
    before = len(multiprocessing.active_children())
    held = len(accelerator._dataloaders)
    for _ in range(3):
        evaluate(nn.Linear(3, 3), loader, accelerator=accelerator)
        logits(nn.Linear(3, 3), loader, accelerator=accelerator)
        tune(nn.Linear(3, 3), DataLoader(data, 2), loader, TuningConfig(epochs=1), accelerator=accelerator)
        assert len(multiprocessing.active_children()) - before == 1
    assert len(accelerator._dataloaders) <= held + 1
    # Nor does what was made of a loader outlive it.
    del loader
    gc.collect()
    assert len(multiprocessing.active_children()) == before
