"""The learning rates of each shape of schedule."""

import pytest

from train.fit.params import Shape
from train.fit.schedule import Schedule


def rates(shape: Shape) -> list[float]:
    schedule = Schedule(shape=shape, seed=1, num_steps=100, warmup_steps=10, max_grad_norm=1.0)
    return [schedule.rate(step) for step in range(100)]


def test_the_rate_warms_up_by_the_logarithm_and_falls_to_zero() -> None:
    published = rates("as-published")
    assert published[9] == pytest.approx(1.0)
    assert published[10] == pytest.approx(1.0)
    assert published[0] == pytest.approx(0.289, abs=1e-3)
    assert published[99] == pytest.approx(1 / 90)
    assert published[:10] == sorted(published[:10])


@pytest.mark.parametrize("shape", ["cosine", "constant"])
def test_each_shape_has_the_same_warm_up(shape: Shape) -> None:
    assert rates(shape)[:11] == rates("as-published")[:11]


def test_a_cosine_is_at_half_in_the_middle_and_ends_near_zero() -> None:
    cosine = rates("cosine")
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] < rates("as-published")[99] / 10


def test_a_constant_rate_stays() -> None:
    assert set(rates("constant")[10:]) == {1.0}
