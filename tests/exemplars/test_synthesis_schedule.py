"""Steps over resolutions."""

import pytest

from surgeon.exemplars.schedule import Stage, plan_stages


def test_large_images_are_made_from_coarse_to_fine() -> None:
    stages = plan_stages((224, 224), 200, lambda size: True)
    assert stages == (Stage((56, 56), 144), Stage((112, 112), 50), Stage((224, 224), 6))


def test_a_coarse_stage_that_the_network_does_not_take_goes_to_the_next() -> None:
    stages = plan_stages((224, 224), 200, lambda size: size != (56, 56))
    assert stages == (Stage((112, 112), 194), Stage((224, 224), 6))


def test_small_images_have_one_stage() -> None:
    assert plan_stages((32, 32), 200, lambda size: True) == (Stage((32, 32), 200),)
    assert plan_stages((300, 90), 7, lambda size: True) == (Stage((300, 90), 7),)


def test_one_fixed_size_has_fewer_steps_at_the_same_cost() -> None:
    # 0.72 / 16 + 0.25 / 4 + 0.03 of 200 steps at full size.
    assert plan_stages((224, 224), None, lambda size: False) == (Stage((224, 224), 28),)
    # From 96 pixels on there is one coarse size: 0.97 / 4 + 0.03 of 200 steps.
    assert plan_stages((96, 96), None, lambda size: False) == (Stage((96, 96), 54),)


def test_steps_that_are_asked_for_are_made() -> None:
    for steps in (1, 7, 200):
        assert plan_stages((224, 224), steps, lambda size: False) == (Stage((224, 224), steps),)
    assert plan_stages((224, 224), None, lambda size: True) == plan_stages((224, 224), 200, lambda size: True)
    assert plan_stages((32, 32), None, lambda size: False) == (Stage((32, 32), 200),)


@pytest.mark.parametrize("size", [(32, 32), (96, 128), (224, 224), (384, 200)])
@pytest.mark.parametrize("steps", [1, 2, 3, 19, 200, 1001])
def test_every_step_has_a_stage_and_the_last_is_at_full_size(size: tuple[int, int], steps: int) -> None:
    stages = plan_stages(size, steps, lambda smaller: True)
    assert sum(stage.steps for stage in stages) == steps
    assert stages[-1].size == size
    assert all(stage.steps >= 1 for stage in stages)
    assert sorted(stages, key=lambda stage: stage.size) == list(stages)
