"""Two processes measure what one does; the one is the oracle."""

import pytest
import torch
from measured_together import measure
from together import together

from surgeon.measure.criteria import CRITERIA

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""Sums in another order, in float32."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """What either process has measured."""
    return together(measure, tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def alone():
    return measure()


def test_class_means_are_those_of_all_images(both, alone) -> None:
    for own in both:
        torch.testing.assert_close(own["means"], alone["means"], **CLOSE)
        torch.testing.assert_close(own["means of a list"], alone["means"]["two"][0], **CLOSE)
        # The first process has no part in a batch of one image.
        torch.testing.assert_close(own["one image"], alone["one image"], **CLOSE)


@pytest.mark.parametrize("criterion", [name for name, criterion in CRITERIA.items() if criterion.needs_data])
def test_scores_are_those_of_all_images(both, alone, criterion: str) -> None:
    for own in both:
        torch.testing.assert_close(own[criterion], alone[criterion], **CLOSE)


def test_an_oracle_that_cannot_keep_the_images_reads_them_in_every_process(both, alone) -> None:
    for own in both:
        torch.testing.assert_close(own["oracle, read again"], alone["oracle"], **CLOSE)


def test_recalibrated_statistics_are_those_of_batches_of_all_processes_together(both, alone) -> None:
    for own in both:
        assert own["ran"] == alone["ran"] == 2
        torch.testing.assert_close(own["recalibrated"], alone["recalibrated"], **CLOSE)
    first, second = (own["recalibrated"] for own in both)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_batch_norm_is_that_of_one_batch_forward_and_backward(both, alone) -> None:
    expected = alone["normalized"]
    for own in both:
        for key in expected.keys() - {"output", "input"}:
            torch.testing.assert_close(own["normalized"][key], expected[key], rtol=1e-12, atol=1e-12)
    for key in ("output", "input"):
        parts = torch.cat([own["normalized"][key] for own in both])
        torch.testing.assert_close(parts, expected[key], rtol=1e-12, atol=1e-12)


def test_processes_add_up_and_the_main_one_speaks_for_all(both) -> None:
    for own in both:
        assert own["sum"].tolist() == [3.0, 3.0]
        assert {name: total.tolist() for name, total in own["sums"].items()} == {
            "all": [2.0, 2.0], "only 0": [1.0], "only 1": [1.0],
        }  # fmt: skip
        assert own["main"] == ["said by", 0]
    assert [own["is main"] for own in both] == [True, False]
    assert torch.equal(both[0]["weight"], both[1]["weight"])


def test_a_sampler_with_random_numbers_of_its_own_still_shows_every_image_once(both) -> None:
    seen = [number for own in both for batch in own["seen"] for number in batch]
    assert sorted(seen) == list(range(7))
