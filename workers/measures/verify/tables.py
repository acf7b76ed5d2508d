"""The tables of the verify stage, from the states of its shards in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.measure import Columns
from erasure_sweep.workers.measures.statistics.lines import Lines
from erasure_sweep.workers.measures.statistics.ratios import Key, Ratios
from erasure_sweep.workers.measures.verify.ablations import RESAMPLED
from erasure_sweep.workers.measures.verify.adversarial_tables import adversarial_rows, aligned_rows, token_rows
from erasure_sweep.workers.measures.verify.carries import Carried, parts_of
from erasure_sweep.workers.measures.verify.dla_effects import EFFECTS
from erasure_sweep.workers.measures.verify.eraser_group import SUM, bins, siblings
from erasure_sweep.workers.measures.verify.mlp_erasure import later_mlps
from erasure_sweep.workers.measures.verify.patched_residual import PATCHES, later_components
from erasure_sweep.workers.measures.verify.places import writers_of
from erasure_sweep.workers.measures.verify.token_texts import Words
from erasure_sweep.workers.measures.verify.trust import EFFECT, NET, RECOMPUTED
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Place, State, Target, WriterBlock
from erasure_sweep.workers.tables.facts.trust import trust_word

Row = dict[str, Any]

TABLES = (
    *("eraser_group", "nulls", "patched_residual_projection", "dla_correlation", "dla_points", "mlp_erasure"),
    *("aligned_tokens", "adversarial", "adversarial_tokens", "ablation_loss", "carries", "position_profile"),
    *("later_use", "dla_trust"),
)


class Told(NamedTuple):
    """What tables need to know beside the states."""

    targets: tuple[Target, ...]
    held_out: bool
    """Whether the prompts are others than those that the erasers were chosen on."""
    tau: float
    seq_len: int
    places: tuple[Place, ...] = ()
    given: tuple[tuple[int, ...], ...] = ()
    tokens: str | None = None
    """Path of the token array; ``None`` where texts are not shown."""
    tokenizer: str | None = None


def verify_tables(
    model: LeanModel,
    told: Told,
    group: Sequence[dict[str, State]],
    trust: Sequence[tuple[WriterBlock, Sequence[dict[str, State]]]],
    adversarial: Sequence[dict[str, State]],
) -> dict[str, Columns]:
    """All tables of the stage; those without rows are left out.

    Args:
        group, adversarial: states of the substages' shards, in plan order; empty where there was nothing to verify.
        trust: for each block of writers its shards' states.
    """
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    if group:
        _add_group(rows, model, told, group)
    words = Words(told.tokenizer, told.tokens, told.given)
    if group:
        rows["aligned_tokens"] = aligned_rows(model, told.targets, [state["direct"] for state in group], words)
    if adversarial:
        rows["adversarial"] = adversarial_rows(told.places, adversarial, words)
        rows["adversarial_tokens"] = token_rows(told.places, adversarial, words)
    for block, states in trust:
        labels = model.config.layout.writers[block.start : block.stop]
        rows["dla_trust"] += (
            [_trust_row(Lines([s["lines"] for s in states]), label) for label in labels] if states else []
        )
    return {name: _columns(found) for name, found in rows.items() if found}


def _columns(rows: list[Row]) -> Columns:
    """Rows as columns; ``None`` and NaN are what was not measured."""
    columns: Columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        plain = all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values)
        columns[name] = np.array(values) if plain else np.array(values, dtype=object)
    return columns


def _add_group(rows: dict[str, list[Row]], model: LeanModel, told: Told, group: Sequence[dict[str, State]]) -> None:
    layout = model.config.layout
    ratios, lines = Ratios([state["ratios"] for state in group]), Lines([state["lines"] for state in group])
    carried = Carried([state["carries"] for state in group])
    for index, target in enumerate(told.targets):
        name = {"writer": target.writer, "eraser": target.label}
        rows["eraser_group"] += _group_rows(ratios, told, target, index)
        rows["nulls"] += [name | row for row in _null_rows(ratios, layout, target, index)]
        rows["patched_residual_projection"] += [name | row for row in _state_rows(ratios, layout, index)]
        for effect in EFFECTS:
            rows["dla_correlation"].append(name | _line_row(lines, index, effect))
            rows["dla_points"] += [name | row for row in _point_rows(lines, index, effect)]
        rows["carries"] += [name | row for row in _part_rows(ratios, carried, told.targets, index)]
        rows["position_profile"] += [name | row for row in _profile_rows(ratios, told.seq_len, index)]
        rows["later_use"] += [name | row for row in _later_rows(ratios, layout, target, index)]
    for writer in writers_of(told.targets):
        rows["mlp_erasure"] += [_mlp_row(ratios, writer, label) for label in later_mlps(layout, writer)]
        rows["ablation_loss"] += [_loss_row(ratios, writer, ablation) for ablation in RESAMPLED]


def _interval(name: str, ends: tuple[float, float]) -> Row:
    return {f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _families(ratios: Ratios, key: Key, kinds: Iterable[str]) -> Row:
    """The quantiles of several kinds of one row."""
    found: Row = {}
    for kind in kinds:
        found |= ratios.quantiles((*key, kind), f"{kind}_")
    return found


_KINDS = ("clean", "patched", "v_composed")


def _group_rows(ratios: Ratios, told: Told, target: Target, index: int) -> list[Row]:
    rows = []
    single = target.erasers if target.label not in target.erasers else ()
    for label, part_of_group in (*((head, head) for head in single), (target.label, SUM)):
        key = ("group", str(index), part_of_group)
        part = (*key, "v_composed")
        whole = part_of_group == SUM
        row = {
            "writer": target.writer,
            "group": target.label,
            "eraser": label,
            "chosen": target.chosen,
            "held_out": told.held_out,
        }
        row |= _families(ratios, key, _KINDS)
        row |= _interval("clean_median", ratios.median_interval((*key, "clean")))
        row |= _interval("patched_median", ratios.median_interval((*key, "patched")))
        row |= {"beta": ratios.beta(part), **_interval("beta", ratios.beta_interval(part))}
        row["position_share"] = _position_share(ratios, key, index) if whole else np.nan
        row["verdict"] = _verdict(ratios, told, target, index) if whole else None
        rows.append(row | {"n": ratios.n(part)})
    return rows


def _position_share(ratios: Ratios, key: Key, index: int) -> float:
    read = ratios.beta((*key, "v_composed"))
    return ratios.beta(("null", str(index), "position", "", "v_composed")) / read if read else np.nan


def _verdict(ratios: Ratios, told: Told, target: Target, index: int) -> str | None:
    """Whether what was found on the scan's prompts holds on these, and exceeds what a placebo patch does."""
    _, high = ratios.beta_interval(("group", str(index), SUM, "v_composed"))
    low, _ = ratios.beta_interval(("null", str(index), "placebo", "", "v_composed"))
    if np.isnan(high) or np.isnan(low):
        return None
    return "erased" if target.chosen != "all" and high < -told.tau and high < low else "not found"


NULLS = (
    *(("shuffled", "clean"), ("shuffled", "v_composed"), ("random_direction", "clean"), ("placebo", "v_composed")),
    *(("position", "clean"), ("position", "v_composed")),
)
"""Nulls, each with the number that it questions; ``position`` is none, but what position alone explains."""


def _null_rows(ratios: Ratios, layout: Layout, target: Target, index: int) -> Iterable[Row]:
    name, measured = str(index), ("group", str(index), SUM)
    found: list[tuple[str, str, str, Key]] = [
        ("measured", "", kind, (*measured, kind)) for kind in ("clean", "v_composed")
    ]
    found += [(null, "", kind, ("null", name, null, "", kind)) for null, kind in NULLS]
    found += [
        ("siblings", label, kind, ("null", name, "siblings", label, kind))
        for label in siblings(layout, target.writer)
        for kind in ("clean", "v_composed")
    ]
    for null, direction, of, key in found:
        yield {
            "null": null,
            "direction": direction,
            "of": of,
            **ratios.quantiles(key),
            "beta": ratios.beta(key),
            **_interval("beta", ratios.beta_interval(key)),
            "n": ratios.n(key),
        }


def _state_rows(ratios: Ratios, layout: Layout, index: int) -> Iterable[Row]:
    for patch in PATCHES:
        for state in layout.states:
            clean, patched = ((("state", str(index), kind, state)) for kind in ("clean", patch))
            yield {
                "patch": patch,
                "state": state,
                **ratios.quantiles(clean, "clean_"),
                **ratios.quantiles(patched, "patched_"),
                "clean_beta": ratios.beta(clean),
                "patched_beta": ratios.beta(patched),
                "n": ratios.n(clean),
            }


def _line_row(lines: Lines, index: int, effect: str) -> Row:
    key = (str(index), effect)
    line = lines.line(key)
    return {
        "effect": effect,
        "r": line.r,
        "spearman": lines.spearman(key) if np.isfinite(line.r) else np.nan,
        **{name: getattr(line, name) for name in ("slope", "intercept", "low", "high", "slope_low", "slope_high", "n")},
        "stage": "verify",
    }


def _point_rows(lines: Lines, index: int, effect: str) -> Iterable[Row]:
    points = lines.points((str(index), effect))
    for prompt, position, x, y in zip(*(points[name] for name in ("prompt", "position", "x", "y")), strict=True):
        yield {
            "effect": effect,
            "prompt": int(prompt),
            "position": int(position),
            "writer_dla": float(x),
            "eraser_dla": float(y),
        }


def _part_rows(ratios: Ratios, carried: Carried, targets: Sequence[Target], index: int) -> Iterable[Row]:
    writer = targets[index].writer
    writers = writers_of(targets)
    first = sum(len(parts_of(other)) for other in writers[: writers.index(writer)])
    for row, part in enumerate(parts_of(writer), start=first):
        yield {
            "part": part,
            "power_share": ratios.beta(("part", str(index), part, "power")),
            "variance": float(carried.variance[row]),
            "position_share": float(carried.position_share[row]),
            "token_share": float(carried.token_share[row]),
            "erased_by_reading": -ratios.beta(("part", str(index), part, "read")),
            "n": carried.n,
        }


def _profile_rows(ratios: Ratios, seq_len: int, index: int) -> Iterable[Row]:
    for first, last in bins(seq_len):
        key = ("position", str(index), f"{first}-{last}")
        yield {
            "first_position": first,
            "last_position": last,
            **_families(ratios, key, ("clean", "patched")),
            "writer_norm": float(np.sqrt(ratios.beta((*key, "norm_sq")))),
            "n": ratios.n((*key, "clean")),
        }


def _later_rows(ratios: Ratios, layout: Layout, target: Target, index: int) -> Iterable[Row]:
    for label in later_components(layout, target):
        clean, patched = (("later", str(index), kind, label) for kind in ("clean", "patched"))
        yield {
            "component": label,
            **ratios.quantiles(clean, "clean_"),
            **ratios.quantiles(patched, "patched_"),
            "clean_beta": ratios.beta(clean),
            **_interval("clean_beta", ratios.beta_interval(clean)),
            "patched_beta": ratios.beta(patched),
            "n": ratios.n(clean),
        }


def _mlp_row(ratios: Ratios, writer: str, label: str) -> Row:
    key = ("mlp", writer, label)
    read = (*key, "read")
    return {
        "writer": writer,
        "component": label,
        **_families(ratios, key, ("clean", "patched", "read")),
        "beta": ratios.beta(read),
        **_interval("beta", ratios.beta_interval(read)),
        "n": ratios.n(read),
    }


def _loss_row(ratios: Ratios, writer: str, ablation: str) -> Row:
    key = ("loss", writer, ablation)
    return {
        "writer": writer,
        "ablation": ablation,
        "clean_loss": ratios.beta(("loss", writer, "clean")),
        "increase_mean": ratios.beta(key),
        **_interval("increase_mean", ratios.beta_interval(key)),
        **ratios.quantiles(key),
        "n": ratios.n(key),
    }


def _trust_row(lines: Lines, writer: str) -> Row:
    power = lines.square_x((writer, NET))
    net, effect, recomputed = (lines.line((writer, kind), power) for kind in (NET, EFFECT, RECOMPUTED))
    dla, net_size = lines.mean_abs((writer, NET))
    return {
        "writer": writer,
        "dla_mean_abs": dla,
        "net_mean_abs": net_size,
        "effect_mean_abs": lines.mean_abs((writer, EFFECT))[1],
        "net_slope": net.slope,
        "net_r": net.r,
        "effect_slope": effect.slope,
        "effect_r": effect.r,
        "low": effect.slope_low,
        "high": effect.slope_high,
        "effect_slope_recomputed": recomputed.slope,
        "effect_r_recomputed": recomputed.r,
        "trust": trust_word(effect.slope),
        "n": net.n,
    }
