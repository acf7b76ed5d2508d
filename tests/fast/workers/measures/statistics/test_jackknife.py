"""Intervals by leaving out one prompt, beside textbook ones and beside the formula written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from erasure_sweep.workers.measures.statistics.jackknife import FISHER, LOG, PLAIN, Scale, jackknife, without_each


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[0] / sums[1]


def correlation(sums: np.ndarray) -> np.ndarray:
    xy, xx, yy = sums
    return xy / np.sqrt(xx * yy)


def drawn(n_prompts: int, n_sums: int, *rows: int) -> np.ndarray:
    return np.random.default_rng(n_prompts).gamma(2.0, size=(n_prompts, n_sums, *rows))


def literal(sums: np.ndarray, statistic, to=lambda x: x, back=lambda x: x) -> tuple[float, float, float]:
    """The formula of the module's docstring, prompt by prompt."""
    n = len(sums)
    value = to(float(statistic(sums.sum(axis=0))))
    left_out = [to(float(statistic(np.delete(sums, i, axis=0).sum(axis=0)))) for i in range(n)]
    mean = sum(left_out) / n
    error = math.sqrt((n - 1) / n * sum((each - mean) ** 2 for each in left_out))
    width = stats.t.ppf(0.975, n - 1) * error
    return back(value), back(value - width), back(value + width)


def test_of_a_mean_it_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=12)
    found = jackknife(np.stack([values, np.ones(12)], axis=1), ratio)
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert found == pytest.approx((values.mean(), *expected), rel=1e-12)


@pytest.mark.parametrize("n_prompts", [2, 3, 32])
@pytest.mark.parametrize(
    ("statistic", "n_sums", "scale", "to", "back"),
    [
        (ratio, 2, PLAIN, None, None),
        (ratio, 2, LOG, math.log, math.exp),
        (correlation, 3, FISHER, math.atanh, math.tanh),
    ],
)
def test_it_is_the_formula(n_prompts: int, statistic, n_sums: int, scale: Scale, to, back) -> None:
    sums = drawn(n_prompts, n_sums)
    if scale is FISHER:
        sums[:, 0] *= 0.3
    plain = {} if to is None else {"to": to, "back": back}
    assert jackknife(sums, statistic, scale) == pytest.approx(literal(sums, statistic, **plain), rel=1e-10)


def test_rows_are_worked_out_together() -> None:
    sums = drawn(5, 2, 3, 4)
    together = jackknife(sums, ratio)
    for i, j in np.ndindex(3, 4):
        single = jackknife(sums[:, :, i, j], ratio)
        assert [float(of[i, j]) for of in together] == pytest.approx([float(of) for of in single], rel=1e-14)


def test_fewer_than_two_prompts_have_no_interval() -> None:
    sums = drawn(4, 2)
    sums[1:] = 0.0
    for prompts in (sums, sums[:1]):
        found = jackknife(prompts, ratio)
        assert found.value == pytest.approx(sums[0, 0] / sums[0, 1])
        assert np.isnan([found.low, found.high]).all()


def test_where_nothing_varies_there_is_no_interval() -> None:
    found = jackknife(np.tile([0.1, 0.3], (7, 1)), ratio)
    assert found.value == pytest.approx(1 / 3) and np.isnan([found.low, found.high]).all()
    exact = jackknife(np.tile(drawn(6, 1), (1, 3)), correlation, FISHER)  # y is x at every prompt
    assert exact.value == pytest.approx(1.0) and np.isnan([exact.low, exact.high]).all()


def test_prompts_that_have_no_part_do_not_count() -> None:
    sums = drawn(6, 2)
    among = np.zeros((9, 2))
    among[[0, 2, 3, 5, 7, 8]] = sums
    assert jackknife(among, ratio) == pytest.approx(jackknife(sums, ratio), rel=1e-12)


def test_a_large_prompt_costs_the_others_no_digits() -> None:
    sums = drawn(5, 2)
    sums[2] *= 1e18
    expected = np.delete(sums, 2, axis=0).sum(axis=0)
    assert without_each(sums)[2] == pytest.approx(expected, rel=1e-14)
