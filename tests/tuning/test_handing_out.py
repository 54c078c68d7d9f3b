"""What processes have kept of an epoch, handed out to as many others: golden values worked by hand."""

import pytest

from surgeon.tuning import handing_out
from surgeon.tuning.handing_out import own_epoch, own_generators

KEPT = [
    {"number": 3, "lr": 0.5, "batches": 4, "images": 9, "loss": 18.0, "seconds": 2.0, "generators": {"torch": 0}},
    {"number": 3, "lr": 0.5, "batches": 4, "images": 7, "loss": 14.0, "seconds": 2.5, "generators": {"torch": 1}},
]
"""Two processes that have seen 16 images, with a mean loss of 2."""


def given_to(monkeypatch: pytest.MonkeyPatch, processes: int) -> list[dict[str, object]]:
    found = []
    monkeypatch.setattr(handing_out, "count", lambda: processes)
    for place in range(processes):
        monkeypatch.setattr(handing_out, "index", lambda place=place: place)
        found.append(own_epoch(KEPT))
    return found


def test_as_many_processes_take_what_each_has_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_to(monkeypatch, 2) == KEPT


def test_one_process_takes_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_to(monkeypatch, 1) == [{**KEPT[0], "images": 16, "loss": 32.0}]


def test_more_processes_share_the_images_and_the_loss_and_none_draws_what_another_does(monkeypatch) -> None:
    found = given_to(monkeypatch, 3)
    assert [own["images"] for own in found] == [5, 5, 6]
    assert [own["loss"] for own in found] == [10.0, 10.0, 12.0]
    assert [own["generators"] for own in found] == [{"torch": 0}, {"torch": 1}, None]
    assert all(own["batches"] == 4 for own in found)


def test_an_epoch_that_has_just_begun_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_out, "count", lambda: 1)
    monkeypatch.setattr(handing_out, "index", lambda: 0)
    none = [{**own, "images": 0, "loss": 0.0} for own in KEPT]
    assert own_epoch(none) == {**KEPT[0], "images": 0, "loss": 0.0}


def test_outside_of_an_epoch_a_new_process_draws_what_the_main_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, expected in enumerate([{"torch": 0}, {"torch": 1}, {"torch": 0}]):
        monkeypatch.setattr(handing_out, "index", lambda place=place: place)
        assert own_generators([{"torch": 0}, {"torch": 1}]) == expected
