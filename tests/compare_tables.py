"""Holds the fast tables against the oracle's, row by row, within the tolerances that the measures promise.

Quantiles within 0.004 + 0.4 % (half a bin of the sketch), means within 1e-4 of the mean |PR|, coefficients and the
ledger within 1e-5 (relative above one); keys, their order, counts, nulls and labels exactly. A head whose median or
upper quartile lies within the quantiles' tolerance of its threshold may be listed as opposing or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tests.oracle import QUANTILES, TAU

KEYS = {
    "residual_projection": ["writer", "state"],
    "component_projection": ["writer", "component"],
    "writers": ["writer"],
}
LEDGER = [
    f"{name}{suffix}" for name in ("written", "remaining", "reinforced", "opposed") for suffix in ("", "_centred")
]
ROUNDING = 1e-7
"""Means of ratios that are zero but for rounding have no mean |PR| to be compared in."""


def assert_tables_agree(fast: Mapping[str, pd.DataFrame], oracle: Mapping[str, pd.DataFrame], tau: float = TAU) -> None:
    """Fail, naming the worst row, where a fast table differs from the oracle's.

    Args:
        fast: the measure's tables; columns beside the oracle's are ignored.
        oracle: the tables of ``tests.oracle.scan_tables``.
        tau: the threshold of ``opposing`` that both were made with.
    """
    for name in KEYS:
        _assert_same_keys(name, fast[name], oracle[name])
        numbers = LEDGER if name == "writers" else [*QUANTILES, "mean", "beta", "beta_centred", "n"]
        for column in numbers:
            _assert_column_agrees(name, column, fast[name], oracle[name])
    _assert_same_opposing(fast["writers"], oracle["writers"], oracle["component_projection"], tau)


def tolerance(column: str, oracle: pd.DataFrame) -> np.ndarray:
    """How far each row of a column may be off."""
    size = np.abs(_numbers(oracle, column))
    if column in QUANTILES:
        return 0.004 + 0.004 * size
    if column == "mean":
        return 1e-4 * _numbers(oracle, "mean_abs") + ROUNDING
    return np.zeros(len(size)) if column == "n" else 1e-5 * np.maximum(1.0, size)


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)


def _keys(name: str, table: pd.DataFrame) -> list[str]:
    return [" ".join(row) for row in table[KEYS[name]].itertuples(index=False)]


def _assert_same_keys(name: str, fast: pd.DataFrame, oracle: pd.DataFrame) -> None:
    found, expected = _keys(name, fast), _keys(name, oracle)
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    assert not missing, f"{name}: {len(missing)} rows missing, {missing[:5]}"
    assert not extra, f"{name}: {len(extra)} rows too many, {extra[:5]}"
    assert found == expected, f"{name}: rows are not in component order or are repeated"


def _assert_column_agrees(name: str, column: str, fast: pd.DataFrame, oracle: pd.DataFrame) -> None:
    found, expected, allowed = _numbers(fast, column), _numbers(oracle, column), tolerance(column, oracle)
    keys = _keys(name, oracle)
    nulls = np.flatnonzero(np.isnan(found) != np.isnan(expected))
    assert not nulls.size, (
        f"{name}.{column}: {nulls.size} rows null on one side alone, first {keys[nulls[0]]}: "
        f"fast {found[nulls[0]]}, oracle {expected[nulls[0]]}"
    )
    beyond = np.nan_to_num(np.abs(found - expected) - allowed, nan=-np.inf, posinf=np.inf)
    worst = int(beyond.argmax())
    assert beyond[worst] <= 0.0, (
        f"{name}.{column}: {(beyond > 0.0).sum()} of {len(keys)} rows off, worst {keys[worst]}: "
        f"fast {found[worst]!r}, oracle {expected[worst]!r}, allowed {allowed[worst]:.2g}"
    )


def near_threshold(components: pd.DataFrame, tau: float) -> dict[str, set[str]]:
    """Per writer, the components whose median or upper quartile a sketch could put on either side of its threshold."""
    at_median = np.abs(_numbers(components, "median") + tau) <= tolerance("median", components)
    at_quartile = np.abs(_numbers(components, "q75")) <= tolerance("q75", components)
    open_rows = components[at_median | at_quartile]
    return {str(writer): set(rows["component"]) for writer, rows in open_rows.groupby("writer")}


def _assert_same_opposing(fast: pd.DataFrame, oracle: pd.DataFrame, components: pd.DataFrame, tau: float) -> None:
    undecided = near_threshold(components, tau)
    order = {label: index for index, label in enumerate(dict.fromkeys(components["component"]))}
    for writer, found, expected in zip(oracle["writer"], fast["opposing"], oracle["opposing"], strict=True):
        where = f"writers.opposing of {writer}: fast {found!r}, oracle {expected!r}"
        assert pd.isna(found) == pd.isna(expected), where
        if pd.isna(expected):
            continue
        listed, wanted = (value.split("+") if value else [] for value in (found, expected))
        wrong = (set(listed) ^ set(wanted)) - undecided.get(writer, set())
        assert not wrong, f"{where}; {sorted(wrong)} is not near the threshold"
        assert listed == sorted(set(listed), key=order.__getitem__), f"{where}: not in component order"
