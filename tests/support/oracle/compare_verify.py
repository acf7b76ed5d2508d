"""Holds the fast tables of verify against the oracle's, row by row, within the tolerances that the measures promise.

Quantiles and intervals of medians within 0.004 + 0.4 % (half a bin of the sketch), coefficients, means and lines within
1e-4 (relative above one), rank correlations within 1e-3; keys, counts, words, labels and nulls exactly. What compares two
numbers (a verdict, a word of trust, a rank) may differ where these are within their tolerances of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from tests.support.oracle import verify_trust
from tests.support.oracle.scan import QUANTILES, TAU
from tests.support.oracle.verify_adversarial import ARRIVES, LARGE

KEYS = {
    "eraser_group": ["writer", "group", "eraser"],
    "nulls": ["writer", "eraser", "null", "direction", "of"],
    "patched_residual_projection": ["writer", "eraser", "patch", "state"],
    "patched_loss": ["writer", "eraser", "patch"],
    "dla_correlation": ["writer", "eraser", "effect"],
    "dla_points": ["writer", "eraser", "effect", "prompt", "position"],
    "mlp_erasure": ["writer", "component"],
    "aligned_tokens": ["writer", "rank"],
    "adversarial": ["writer", "source", "prompt", "position", "role", "inputs"],
    "adversarial_tokens": ["writer", "source", "prompt", "place", "position"],
    "ablation_loss": ["writer", "ablation"],
    "carries": ["writer", "eraser", "part"],
    "position_profile": ["writer", "eraser", "first_position"],
    "later_use": ["writer", "eraser", "component"],
    "dla_trust": ["writer"],
    "dla_mediation": ["writer", "mediator"],
}
ORDERED = (
    "eraser_group",
    "patched_residual_projection",
    "mlp_erasure",
    "position_profile",
    "later_use",
    "dla_trust",
    "dla_mediation",
)
"""Tables whose rows stand in the order of the targets, of the stream, or of positions."""
WORDS = {
    "eraser_group": ["chosen"],
    "nulls": ["heads"],
    "dla_correlation": ["stage"],
    "aligned_tokens": ["token_id"],
    "adversarial": ["half", "text", "top_id", "top", "second_id", "second", "component"],
    "adversarial_tokens": ["half", "token_id"],
    "position_profile": ["last_position"],
}
JUDGED = {
    "eraser_group": ["verdict", "held_out", "position_share"],
    "aligned_tokens": ["token"],
    "mlp_erasure": ["verdict"],
    "adversarial": ["fools"],
    "adversarial_tokens": ["token"],
    "dla_trust": ["trust", "settled", "rotated_trust"],
}
UNRESOLVED = 1e-4
"""Spread of an effect's DLA, in units of the erasers' whole DLA, below which it is float32's rounding alone."""
SAME = 1e-4
FLOAT32 = 2e-7
"""Points are kept in float32 whatever the model computes in."""
FEW = 20
"""Of so few values two that lie next to each other may be far apart."""


def assert_verify_agrees(
    fast: Mapping[str, pd.DataFrame], oracle: Mapping[str, pd.DataFrame], tau: float = TAU, tolerance: float = SAME
) -> None:
    """Fail, naming the worst row, where a fast table differs from the oracle's.

    Args:
        fast: the tables of ``tests.support.oracle.measuring.measure_verify``.
        oracle: those of ``tests.support.oracle.verify.verify_tables``.
        tau: the threshold of the verdict that both were made with.
        tolerance: of every number that is not a quantile or a rank correlation, relative above one.
    """
    assert sorted(fast) == sorted(name for name, rows in oracle.items() if len(rows)), (
        "tables without rows are left out"
    )
    for name in KEYS:
        if name in fast:
            assert_table_agrees(name, fast[name], oracle[name], tolerance)
    _assert_shares_agree(fast["eraser_group"], oracle, tolerance)
    _assert_verdicts_agree(fast["eraser_group"], oracle, tau)
    if "mlp_erasure" in fast:
        _assert_mlp_verdicts_agree(*_align("mlp_erasure", fast["mlp_erasure"], oracle["mlp_erasure"]), tau)
    assert_trust_agrees(fast["dla_trust"], oracle["dla_trust"], tolerance)
    if "adversarial" in fast:
        _assert_fools_agree(*_align("adversarial", fast["adversarial"], oracle["adversarial"]))
        _assert_ranks_agree(*_align("adversarial", fast["adversarial"], oracle["adversarial"]))


def assert_table_agrees(name: str, fast: pd.DataFrame, oracle: pd.DataFrame, tolerance: float = SAME) -> None:
    """One table alone: its rows, and every column but those that are judged with what others hold."""
    missing = sorted(set(oracle.columns) - {"resolution"} - set(fast.columns))
    assert not missing, f"{name}: columns {missing} are missing"
    found, expected = _align(name, fast, oracle)
    for column in oracle.columns:
        if column in ("resolution", *JUDGED.get(name, [])):
            continue
        if column in WORDS.get(name, []):
            _assert_same_words(name, column, found, expected)
        elif column not in KEYS[name] and column != "rank":
            _assert_column_agrees(name, column, found, expected, tolerance)


def is_quantile(column: str) -> bool:
    """Whether a column comes from a sketch."""
    if column in ("placebo_median", "siblings_median"):  # of a few coefficients, each worked out from sums
        return False
    return any(column == name or column.endswith(f"_{name}") for name in QUANTILES) or "_median_" in column


def allowed(name: str, column: str, expected: pd.DataFrame, tolerance: float) -> np.ndarray:
    """How far each row of a column may be off."""
    size = np.abs(numbers(expected, column))
    if column == "n":
        return np.zeros(len(size))
    if is_quantile(column):
        return 0.004 + 0.004 * np.maximum(size, _neighbours(column, expected)) + tolerance
    if name == "adversarial" and column == "change":
        clean = np.abs(numbers(expected, "clean"))
        return (0.004 + 0.004 * np.abs(numbers(expected, "median")) + 2 * tolerance) / clean + tolerance * size
    if name == "dla_points":
        return max(tolerance, FLOAT32) * np.maximum(1.0, size)
    if column.startswith("spearman"):
        return np.full(len(size), 10 * tolerance)
    return tolerance * np.maximum(1.0, size)


def _neighbours(column: str, expected: pd.DataFrame) -> np.ndarray:
    """Bound on the size of the values between which a quantile is interpolated; of many values it is its own size."""
    name = next(name for name in QUANTILES if name in column)
    family = [column.replace(name, other) for other in QUANTILES if column.replace(name, other) in expected]
    largest = np.max([np.abs(numbers(expected, other)) for other in family], axis=0)
    return np.where(numbers(expected, "n") < FEW, 2 * largest, 0.0)


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)


def _align(name: str, fast: pd.DataFrame, oracle: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with their keys as index, in the oracle's order."""
    keys = KEYS[name]
    found, expected = (table.set_index([table[key].astype(str) for key in keys]) for table in (fast, oracle))
    for which, table in (("fast", found), ("oracle", expected)):
        assert table.index.is_unique, f"{name}: {which} repeats {table.index[table.index.duplicated()][0]}"
    missing, extra = expected.index.difference(found.index), found.index.difference(expected.index)
    assert not len(missing), f"{name}: {len(missing)} rows missing, {list(missing[:5])}"
    assert not len(extra), f"{name}: {len(extra)} rows too many, {list(extra[:5])}"
    if name in ORDERED:
        assert list(found.index) == list(expected.index), f"{name}: rows are not in order, {list(found.index)}"
    return found.loc[expected.index], expected


def _assert_same_words(name: str, column: str, found: pd.DataFrame, expected: pd.DataFrame) -> None:
    for key, a, b in zip(expected.index, found[column], expected[column], strict=True):
        assert a == b or (pd.isna(a) and pd.isna(b)), f"{name}.{column} of {key}: fast {a!r}, oracle {b!r}"


def _assert_column_agrees(
    name: str, column: str, found: pd.DataFrame, expected: pd.DataFrame, tolerance: float
) -> None:
    a, b = (_or_its_number(name, column, table) for table in (found, expected))
    slack = allowed(name, column, expected, tolerance)
    comparable = np.ones(len(b), dtype=bool)
    if name == "dla_correlation" and column in ("r", "spearman", "spearman_low", "spearman_high", "low", "high"):
        comparable = ~(numbers(expected, "resolution") <= UNRESOLVED)
    if name == "dla_trust" and column in ("r", "r_low", "r_high", "rotated_r"):
        comparable = ~(numbers(expected, "rotated_size" if column == "rotated_r" else "size") <= UNRESOLVED)
    nulls = np.flatnonzero(comparable & (np.isnan(a) != np.isnan(b)))
    assert not nulls.size, (
        f"{name}.{column}: {nulls.size} rows null on one side alone, first {expected.index[nulls[0]]}: "
        f"fast {a[nulls[0]]}, oracle {b[nulls[0]]}"
    )
    beyond = np.nan_to_num(np.abs(a - b) - slack, nan=-np.inf, posinf=np.inf)
    beyond[~comparable] = -np.inf
    if not len(beyond):
        return
    worst = int(beyond.argmax())
    assert beyond[worst] <= 0.0, (
        f"{name}.{column}: {(beyond > 0.0).sum()} of {len(b)} rows off, worst {expected.index[worst]}: "
        f"fast {a[worst]!r}, oracle {b[worst]!r}, allowed {slack[worst]:.2g}"
    )


def _or_its_number(name: str, column: str, table: pd.DataFrame) -> np.ndarray:
    """A column; the end of an interval is its number where nothing varies, which one side may not tell from rounding."""
    values = numbers(table, column)
    number = column.removesuffix("_low").removesuffix("_high")
    if column in ("low", "high"):
        number = {"dla_correlation": "r", "dla_trust": "effect_slope"}[name]
    return values if number == column else np.where(np.isnan(values), numbers(table, number), values)


def _assert_shares_agree(fast: pd.DataFrame, oracle: Mapping[str, pd.DataFrame], tolerance: float) -> None:
    """Shares explained by position agree as far as the coefficient that they are shares of leaves them."""
    found, expected = _align("eraser_group", fast, oracle["eraser_group"])
    measured = (
        oracle["nulls"].query("null == 'measured' and of == 'v_composed'").set_index(["writer", "eraser"])["beta"]
    )
    for key, a, b in zip(expected.index, found["position_share"], expected["position_share"], strict=True):
        where = f"eraser_group.position_share of {key}: fast {a!r}, oracle {b!r}"
        assert pd.isna(a) == pd.isna(b), where
        assert pd.isna(b) or abs(a - b) <= tolerance * (1.0 + abs(b)) / abs(measured[key[0], key[2]]), where


def _assert_verdicts_agree(fast: pd.DataFrame, oracle: Mapping[str, pd.DataFrame], tau: float) -> None:
    """Verdicts are the oracle's but where the group's upper bound, or the nulls' median, is near what it is held against."""
    found, expected = _align("eraser_group", fast, oracle["eraser_group"])
    nulls = oracle["nulls"].query("of == 'v_composed'").set_index(["writer", "eraser"])
    for key, a, b in zip(expected.index, found["verdict"], expected["verdict"], strict=True):
        if a == b or (pd.isna(a) and pd.isna(b)):
            continue
        row, own = expected.loc[[key]].iloc[0], nulls.loc[[(key[0], key[2])]]
        medians = own[own["null"].isin(["placebo", "siblings"])].groupby("null")["beta"].median()
        placebo = own.loc[own["null"] == "placebo", "beta"].min()
        gaps = [row["beta_high"] + tau, row["beta_high"] - placebo, row["beta_high"] - medians["placebo"] + tau]
        gaps += [*(medians + tau), *(medians - row["beta"] / 2)]
        assert min(map(abs, gaps)) <= SAME, f"eraser_group.verdict of {key}: fast {a!r}, oracle {b!r}"
    assert list(found["held_out"]) == list(expected["held_out"]), "eraser_group.held_out differs"


def _assert_mlp_verdicts_agree(found: pd.DataFrame, expected: pd.DataFrame, tau: float) -> None:
    """The same of MLPs, whose nulls stand beside them."""
    for key, a, row in zip(expected.index, found["verdict"], expected.to_dict("records"), strict=True):
        medians = np.array([row["placebo_median"], row["siblings_median"]])
        gaps = [row["beta_high"] + tau, row["beta_high"] - row["placebo_lowest"], row["beta_high"] - medians[0] + tau]
        gaps += [*(medians + tau), *(medians - row["beta"] / 2)]
        undecided = np.isfinite(gaps).any() and np.nanmin(np.abs(gaps)) <= SAME
        assert undecided or _same(a, row["verdict"]), (
            f"mlp_erasure.verdict of {key}: fast {a!r}, oracle {row['verdict']!r}"
        )


def assert_trust_agrees(fast: pd.DataFrame, oracle: pd.DataFrame, tolerance: float) -> None:
    """Words, and whether they are settled, are the oracle's but where its numbers within their tolerance say otherwise too."""
    for found, expected in zip(fast.to_dict("records"), oracle.to_dict("records"), strict=True):
        for column, prefix in (("trust", ""), ("rotated_trust", "rotated_")):
            near = [_moved(expected, prefix, signs, tolerance) for signs in product((0.0, -1.0, 1.0), repeat=4)]
            words = [verify_trust.word(numbers) for numbers in near]
            assert _same(found[column], expected[column]) or found[column] in words, (
                f"dla_trust.{column} of {expected['writer']}: fast {found[column]!r}, oracle {expected[column]!r}"
            )
        if not _same(found["settled"], expected["settled"]):
            ends = {
                name: [expected[f"{of}_{end}"] for end in ("low", "high")]
                for name, of in (("varying", "constant"), ("share", "share"), ("r", "r"), ("size", "size"))
            }
            ends["varying"] = [1.0 - end for end in reversed(ends["varying"])]
            reach = {name: tolerance * max(1.0, *map(abs, pair)) for name, pair in ends.items()}
            undecided = {
                verify_trust.settled(
                    {n: (pair[0] - sign * reach[n], pair[1] + sign * reach[n]) for n, pair in ends.items()}
                )
                for sign in (-1.0, 1.0)
            }
            assert len(undecided) > 1, (
                f"dla_trust.settled of {expected['writer']}: fast {found['settled']!r}, oracle {expected['settled']!r}"
            )


def _moved(row: Mapping[str, Any], prefix: str, signs: Sequence[float], tolerance: float) -> dict[str, float]:
    """The numbers that a word follows from, each as far off as it may be."""
    numbers = {"varying": 1.0 - row["constant"], **{name: row[f"{prefix}{name}"] for name in ("share", "r", "size")}}
    return {
        name: value + sign * tolerance * max(1.0, abs(value))
        for (name, value), sign in zip(numbers.items(), signs, strict=True)
    }


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or bool(pd.isna(a) and pd.isna(b))


def _assert_fools_agree(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Whether a place fools DLA is the oracle's but where a number is within its tolerance of a threshold."""
    clean, direct, total = (numbers(expected, name) for name in ("clean", "direct", "total"))
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = [np.abs(clean) - LARGE, np.abs(direct) - LARGE, total / clean - ARRIVES, total / direct - ARRIVES]
    undecided = np.nanmin(np.abs(edges), axis=0) <= 10 * SAME
    for key, a, b, open_ in zip(expected.index, found["fools"], expected["fools"], undecided, strict=True):
        assert open_ or a == b or (pd.isna(a) and pd.isna(b)), f"adversarial.fools of {key}: fast {a!r}, oracle {b!r}"


def _assert_ranks_agree(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Ranks follow the oracle's change of the writer under a donor's last input, as far as the quantiles' tolerance goes."""
    slack = pd.Series(allowed("adversarial", "change", expected, SAME), index=expected.index)
    tested = (expected["role"] == "writer") & (expected["inputs"] == "last")
    half = expected["half"].fillna("").to_numpy()
    keys = [expected.index.get_level_values(name) for name in ("writer", "source")]
    groups = pd.Series(list(zip(*keys, half, strict=True)), index=expected.index)
    for _, rows in expected[tested].groupby(groups[tested], sort=False):
        ranks = pd.to_numeric(found.loc[rows.index, "rank"])
        assert sorted(ranks) == list(range(1, len(rows) + 1)), f"adversarial.rank: {ranks.to_dict()}"
        ordered = rows.loc[ranks.sort_values().index]
        changes, room = numbers(ordered, "change"), slack[ordered.index].to_numpy()
        falling = np.flatnonzero(changes[1:] + room[1:] < changes[:-1] - room[:-1])
        assert not falling.size, (
            f"adversarial.rank: {ordered.index[falling[0] + 1]} changes less than the one before it"
        )
    places = found.groupby(level=["writer", "source", "prompt", "position"])["rank"].nunique()
    assert (places == 1).all(), "adversarial.rank: the rows of a place have different ranks"
