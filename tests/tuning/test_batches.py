import pytest
import torch

from surgeon.errors import DataError
from surgeon.tuning.batches import images_in

IMAGE = torch.zeros(3, 5, 7)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(4, 3, 5, 7), 4),
        ((torch.zeros(4, 3, 5, 7), torch.zeros(4)), 4),
        ({"x": torch.zeros(2, 1), "y": torch.zeros(9)}, 2),
        # Gray images and masks, without a channel.
        ([torch.zeros(6, 5, 7), torch.zeros(6, 5, 7)], 6),
        # Detection: images of any size, and a target for each.
        (([IMAGE, torch.zeros(3, 8, 8)], [{"boxes": torch.zeros(0, 4)}, {"boxes": torch.zeros(1, 4)}]), 2),
        (((torch.zeros(5, 3, 8, 8), torch.zeros(5, 3, 8, 8)), torch.zeros(5)), 5),
    ],
    ids=["tensor", "pair", "mapping", "no channel", "detection", "two views"],
)
def test_images_are_counted_by_the_first_field(batch, count):
    assert images_in(batch) == count


@pytest.mark.parametrize("batch", [(), {}, ("name", torch.zeros(2)), None, torch.tensor(1.0)])
def test_a_batch_that_does_not_start_with_images_is_refused(batch):
    with pytest.raises(DataError, match="cannot be counted"):
        images_in(batch)
