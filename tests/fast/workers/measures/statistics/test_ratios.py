"""Rows of a recorder: what each is comes back as it went in, and shards merge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from erasure_sweep.workers.measures.statistics.ratios import RatioRecorder, Ratios, merge_ratios
from erasure_sweep.workers.measures.statistics.rows import decode_rows, encode_rows


class Kind(NamedTuple):
    target: int
    label: str


ROWS = [Kind(0, "L0H1"), Kind(0, "tab\tbed"), Kind(12, "")]


def recorded(*prompts: list[Kind]) -> RatioRecorder[Kind]:
    recorder: RatioRecorder[Kind] = RatioRecorder()
    for prompt, rows in enumerate(prompts, start=1):
        for row in rows:
            product = torch.full((3,), float(prompt + row.target))
            recorder.add(row, product, torch.ones(3), torch.tensor([True, True, False]))
    return recorder


def test_rows_come_back_as_they_were() -> None:
    state = encode_rows(ROWS)
    assert {name: values.dtype.kind for name, values in state.items()} == {"row_target": "i", "row_label": "U"}
    assert decode_rows(Kind, state) == ROWS
    assert decode_rows(Kind, {}) == []


def test_shards_merge() -> None:
    states = [recorded(ROWS, ROWS).export(), recorded(ROWS).export()]
    ratios = Ratios(Kind, merge_ratios(states))
    assert ratios.rows == ROWS
    for row in ROWS:
        assert ratios.beta(row) == pytest.approx((1 + 2 + 1) / 3 + row.target)
        assert ratios.n(row) == 6
        assert ratios.quantiles(row)["median"] == pytest.approx(1 + row.target, rel=0.01)
    low, high = ratios.beta_interval(ROWS[0])
    assert low < ratios.beta(ROWS[0]) < high


def test_no_rows_are_no_state() -> None:
    assert recorded().export() == {}
    assert merge_ratios([{}, {}]) == {}
    assert Ratios(Kind, {}).rows == []


def test_a_row_that_a_prompt_lacks_or_brings_twice_is_noticed() -> None:
    for prompts in ([ROWS, ROWS[:2]], [ROWS, [*ROWS, ROWS[0]]]):
        with pytest.raises(AssertionError, match="every prompt brings every row once"):
            recorded(*prompts).export()


def test_intervals_need_two_shards() -> None:
    ratios = Ratios(Kind, merge_ratios([recorded(ROWS).export()]))
    assert np.isnan(ratios.beta_interval(ROWS[0])).all()
    assert np.isnan(ratios.median_interval(ROWS[0])).all()
