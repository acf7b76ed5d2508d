"""Holds the fast tables against the oracle's, row by row, within the tolerances that the measures promise.

Quantiles within 0.004 + 0.4 % (half a bin of the sketch), means within 1e-4 of the mean |PR|, coefficients and the
ledger within 1e-5, correlations, lines and their intervals within 1e-3 (relative above one); keys, their order, counts,
nulls and labels exactly. A head whose median or upper quartile lies within the quantiles' tolerance of its threshold may
be listed as an eraser, as opposing, or not. p-values lie among those that coefficients within their tolerance would give,
and what is significant follows from them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from tests.support.oracle.dla import INTERVALS, OF_RANKS
from tests.support.oracle.scan import EFFECTIVE, GROWTH, QUANTILES, TAU
from tests.support.oracle.v_composition import significant

PROJECTION = ("residual_projection", "component_projection", "writers")
KEYS = {
    "residual_projection": ["writer", "state"],
    "component_projection": ["writer", "component"],
    "writers": ["writer"],
    "v_composition": ["writer", "eraser"],
    "dla_correlation": ["writer", "eraser", "effect"],
}
LEDGER = [
    f"{name}{suffix}" for name in ("written", "remaining", "reinforced", "opposed") for suffix in ("", "_centred")
]
COMPOSITION = [f"{spread}_{name}" for spread in ("clean", "patched", "v_composed") for name in QUANTILES]
READING = ["erased", "erased_centred", "dla_r", "dla_slope"]
LINES = ("r", "slope", "intercept", "spearman", *OF_RANKS, *INTERVALS, "dla_r", "dla_slope")
ROUNDING = 1e-7
"""Means of ratios that are zero but for rounding have no mean |PR| to be compared in."""
UNRESOLVED = 1e-5
"""Spread of a V-composed part's DLA, in units of the eraser's whole DLA, below which it is float32's rounding alone."""


def assert_tables_agree(fast: Mapping[str, pd.DataFrame], oracle: Mapping[str, pd.DataFrame], tau: float = TAU) -> None:
    """Fail, naming the worst row, where a fast table of the projection scan differs from the oracle's.

    Args:
        fast: the measure's tables; columns beside the oracle's are ignored. Where ``writers`` lists erasers too, these
            are taken to be left out of ``opposing``.
        oracle: the tables of ``tests.support.oracle.scan.scan_tables``.
        tau: the threshold of ``opposing`` that both were made with.
    """
    for name in PROJECTION:
        _assert_same_keys(name, fast[name], oracle[name])
        numbers = [*LEDGER, *GROWTH] if name == "writers" else [*QUANTILES, "mean", "beta", "beta_centred", "n"]
        numbers = [*numbers, *EFFECTIVE] if name == "residual_projection" else numbers
        for column in numbers:
            _assert_column_agrees(name, column, fast[name], oracle[name])
    expected = oracle["writers"]["opposing"]
    if "erasers" in fast["writers"]:
        pairs = zip(expected, fast["writers"]["erasers"], strict=True)
        expected = pd.Series([listed if pd.isna(erasers) else _without(listed, erasers) for listed, erasers in pairs])
    components = oracle["component_projection"]
    undecided = near_threshold(components, tau)
    _assert_same_labels("opposing", fast["writers"], expected, undecided, list(components["component"]))


def assert_reading_agrees(
    fast: Mapping[str, pd.DataFrame],
    oracle: Mapping[str, pd.DataFrame],
    tau: float = TAU,
    *,
    spearman: bool = False,
) -> None:
    """Fail, naming the worst row, where the fast tables of reading differ from the oracle's.

    Args:
        fast: the measures' tables; columns beside the oracle's are ignored.
        oracle: the tables of ``tests.support.oracle.v_composition.reading_tables``.
        tau: the threshold of ``erasers`` and ``opposing`` that both were made with.
        spearman: compare Spearman's coefficients, which the fast measure takes over a sample of the tokens; only where
            the sample holds them all are they the oracle's.
    """
    rows = oracle["v_composition"]
    for name, columns in (
        ("v_composition", [*COMPOSITION, "beta", "beta_low", "beta_high", "beta_centred", "beta_first", "n"]),
        (
            "dla_correlation",
            ["r", "slope", "intercept", *INTERVALS, "n", *(["spearman", *OF_RANKS] if spearman else [])],
        ),
        ("writers", [*LEDGER, *READING]),
    ):
        _assert_same_keys(name, fast[name], oracle[name])
        for column in columns:
            _assert_column_agrees(name, column, fast[name], oracle[name])
    heads = rows[rows["eraser"].str.startswith("L")]
    undecided, of_reading = (
        near_threshold(heads, tau, key="eraser", prefix=prefix) for prefix in ("clean_", "v_composed_")
    )
    for writer, labels in of_reading.items():
        undecided[writer] = undecided.get(writer, set()) | labels
    order = list(heads["eraser"])
    _assert_same_labels("erasers", fast["writers"], oracle["writers"]["erasers"], of_reading, order)
    _assert_same_labels("opposing", fast["writers"], oracle["writers"]["opposing"], undecided, order)
    _assert_shares_agree(fast["writers"], oracle["writers"])
    _assert_ranks_agree(fast["writers"], oracle["writers"])
    _assert_p_values_agree(fast["v_composition"], rows, tau)
    _assert_significance_follows(fast["v_composition"], fast["writers"])
    assert set(fast["dla_correlation"]["stage"]) <= {"scan"}, "dla_correlation.stage: not the scan's"


def tolerance(column: str, oracle: pd.DataFrame) -> np.ndarray:
    """How far each row of a column may be off."""
    size = np.abs(_numbers(oracle, column))
    if column in QUANTILES or column in COMPOSITION or column.removeprefix("effective_") in QUANTILES:
        return 0.004 + 0.004 * size
    if column == "mean":
        return 1e-4 * _numbers(oracle, "mean_abs") + ROUNDING
    if column in LINES:
        return 1e-3 * np.maximum(1.0, size)
    return np.zeros(len(size)) if column == "n" else 1e-5 * np.maximum(1.0, size)


def _comparable(column: str, oracle: pd.DataFrame) -> np.ndarray:
    """Rows whose correlation is one of numbers and not of their rounding."""
    if column not in ("r", "spearman", *OF_RANKS, "low", "high"):
        return np.ones(len(oracle), dtype=bool)
    resolution = _numbers(oracle, "resolution")
    return (resolution == 0.0) | (resolution > UNRESOLVED)


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
    keys, comparable = _keys(name, oracle), _comparable(column, oracle)
    nulls = np.flatnonzero(comparable & (np.isnan(found) != np.isnan(expected)))
    assert not nulls.size, (
        f"{name}.{column}: {nulls.size} rows null on one side alone, first {keys[nulls[0]]}: "
        f"fast {found[nulls[0]]}, oracle {expected[nulls[0]]}"
    )
    beyond = np.nan_to_num(np.abs(found - expected) - allowed, nan=-np.inf, posinf=np.inf)
    beyond[~comparable] = -np.inf
    worst = int(beyond.argmax())
    assert beyond[worst] <= 0.0, (
        f"{name}.{column}: {(beyond > 0.0).sum()} of {len(keys)} rows off, worst {keys[worst]}: "
        f"fast {found[worst]!r}, oracle {expected[worst]!r}, allowed {allowed[worst]:.2g}"
    )


def near_threshold(rows: pd.DataFrame, tau: float, *, key: str = "component", prefix: str = "") -> dict[str, set[str]]:
    """Per writer, the components whose median or upper quartile a sketch could put on either side of its threshold."""
    median, quartile = f"{prefix}median", f"{prefix}q75"
    at_median = np.abs(_numbers(rows, median) + tau) <= tolerance(median, rows)
    at_quartile = np.abs(_numbers(rows, quartile)) <= tolerance(quartile, rows)
    open_rows = rows[at_median | at_quartile]
    return {str(writer): set(group[key]) for writer, group in open_rows.groupby("writer")}


def _split(labels: str) -> list[str]:
    return labels.split("+") if labels else []


def _without(labels: str | None, others: str) -> str | None:
    return labels and "+".join(label for label in _split(labels) if label not in _split(others))


def _assert_same_labels(
    column: str, fast: pd.DataFrame, wanted: pd.Series, undecided: Mapping[str, set[str]], components: list[str]
) -> None:
    """Labels joined by ``+`` are the same but for undecided ones, and stand in the order of ``components``."""
    order = {label: index for index, label in enumerate(dict.fromkeys(components))}
    for writer, found, expected in zip(fast["writer"], fast[column], wanted, strict=True):
        where = f"writers.{column} of {writer}: fast {found!r}, oracle {expected!r}"
        assert pd.isna(found) == pd.isna(expected), where
        if pd.isna(expected):
            continue
        listed = _split(found)
        wrong = (set(listed) ^ set(_split(expected))) - undecided.get(writer, set())
        assert not wrong, f"{where}; {sorted(wrong)} is not near the threshold"
        assert listed == sorted(set(listed), key=order.__getitem__), f"{where}: not in component order"


def _assert_shares_agree(fast: pd.DataFrame, oracle: pd.DataFrame) -> None:
    """Shares of the same erasers are the same, as far as numerator and denominator within 1e-5 leave them."""
    same = (fast["erasers"].fillna("") == oracle["erasers"].fillna("")).to_numpy()
    found, expected = (_numbers(table, "v_composition_share") for table in (fast, oracle))
    opposed = np.abs(_numbers(oracle, "opposed_by_erasers"))
    allowed = 1e-5 * np.maximum(1.0, opposed) * (1.0 + np.abs(expected)) / opposed
    for writer, a, b, slack in zip(oracle["writer"][same], found[same], expected[same], allowed[same], strict=True):
        where = f"writers.v_composition_share of {writer}: fast {a!r}, oracle {b!r}, allowed {slack:.2g}"
        # Where the erasers' outputs nearly cancel along the writer, rounding decides whether they oppose it at all.
        assert np.isnan(a) == np.isnan(b) or slack > 1.0 or np.isnan(slack), where
        assert np.isnan(a) or np.isnan(b) or abs(a - b) <= slack, where


def _assert_ranks_agree(fast: pd.DataFrame, oracle: pd.DataFrame) -> None:
    """Ranks follow the oracle's ``erased``, and ``fast``'s own where the oracle's differ by rounding alone."""
    found, expected = _numbers(fast, "rank"), _numbers(oracle, "rank")
    ranked = ~np.isnan(expected)
    assert (np.isnan(found) == np.isnan(expected)).all(), "writers.rank: null on one side alone"
    assert sorted(found[ranked]) == sorted(expected[ranked]), "writers.rank: a rank is missing or repeated"
    erased = _numbers(oracle, "erased")[ranked][np.argsort(found[ranked])]
    slack = 2e-5 * np.maximum(1.0, np.abs(erased[1:]))
    rising = np.flatnonzero(np.diff(erased) > slack)
    assert not rising.size, f"writers.rank: rank {rising[0] + 2} has erased more than rank {rising[0] + 1}"


def _assert_p_values_agree(fast: pd.DataFrame, oracle: pd.DataFrame, tau: float) -> None:
    """Mean and standard error of the shards' β within 1e-5 of the oracle's leave a range of p-values."""
    mean, error, n = (_numbers(oracle, name) for name in ("shard_mean", "shard_error", "shards"))
    slack = 1e-5 * np.maximum(1.0, np.abs(mean))
    above = np.stack([mean + tau - slack, mean + tau + slack])[:, None]
    errors = np.stack([np.maximum(error - slack, 1e-300), error + slack])
    reached = stats.t.cdf(above / errors, n - 1).reshape(4, -1)
    found, low, high = _numbers(fast, "p"), reached.min(axis=0), reached.max(axis=0)
    keys = _keys("v_composition", oracle)
    nulls = np.flatnonzero(np.isnan(found) != np.isnan(_numbers(oracle, "p")))
    assert not nulls.size, f"v_composition.p: {nulls.size} rows null on one side alone, first {keys[nulls[0]]}"
    off = np.flatnonzero((found < low - 1e-12) | (found > high + 1e-12))
    assert not off.size, (
        f"v_composition.p: {off.size} rows off, first {keys[off[0]]}: fast {found[off[0]]!r}, "
        f"oracle between {low[off[0]]!r} and {high[off[0]]!r}"
    )


def _assert_significance_follows(rows: pd.DataFrame, writers: pd.DataFrame) -> None:
    """Both rules, applied to the table's own p-values of single heads, give its discoveries."""
    tested = rows["eraser"].str.fullmatch(r"L\d+H\d+") & ~rows.duplicated(["writer", "eraser"])
    p_values, keys = pd.to_numeric(rows["p"]).where(tested).tolist(), _keys("v_composition", rows)
    for column, any_dependence in (("significant", False), ("significant_by", True)):
        for key, found, wanted in zip(keys, rows[column], significant(p_values, any_dependence), strict=True):
            assert pd.isna(found) if wanted is None else found == wanted, (
                f"v_composition.{column} of {key}: {found!r}, by its p-values {wanted!r}"
            )
    counts = rows.dropna(subset=["significant"]).groupby("writer")["significant"].sum()
    for writer, found in zip(writers["writer"], _numbers(writers, "significant_erasers"), strict=True):
        wanted = float(counts.get(writer, np.nan))
        assert found == wanted or (np.isnan(found) and np.isnan(wanted)), (
            f"writers.significant_erasers of {writer}: {found!r}, by its rows {wanted!r}"
        )
