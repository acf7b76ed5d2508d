"""Published against measured: finds in a model's tables what stands beside each published number.

A publication's number can have several counterparts: on the prompts of the scan, which under the published protocol are the
published ones, and on prompts held out from it; for the six published erasers, and for the group that verify's rule chooses
beside them; of DLA, under each ablation that the text allows. All are kept, and the one nearest to the published protocol
counts. What has no counterpart is kept too, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from erasure_sweep.sweep.replication.published_numbers import STATISTICS, Number, Published
from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.catalog import find_entry

SCAN, HELD_OUT, AGAIN = "scan", "held out", "scan, again"
"""On which prompts a number was measured; the last where the corpus held none that the scan had not seen."""

PAPERS_HEADS, RULES_HEADS = "six heads", "rule's heads"
NONE = "none"
ROUNDING = 1e-9
"""Of differences, which are of decimal fractions."""

At = Mapping[str, object]
"""Column and value that a row of a table has."""

EFFECTS = {
    "full": "full output",
    "v_composition": "V-composed part",
    "value_input": "writer out of v, rescaled",
    "layer_input": "writer out of q, k and v",
    "downstream": "writer out of all after",
    "without_pattern": "no attention pattern",
}
"""What the effects of ``dla_correlation`` take of the erasers' output, in the words of the report."""


class Measured(NamedTuple):
    """One counterpart of a published number; without a value, the reason."""

    variant: str
    prompts: str
    measured: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: float | None = None
    why_not: str | None = None


class Results:
    """What was measured of one model.

    Args:
        about: its entry in the manifest.
        config: the manifest's.
        tables: by name.
        published: what it is held against; names the writer and its erasers.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        config: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        published: Published,
    ) -> None:
        self.about, self.config, self.tables, self.published = about, config, tables, published
        self.writer = published.writer
        self.heads = "+".join(published.erasers)

    def rows(self, table: str, **where: object) -> pd.DataFrame:
        """The writer's rows of a table; none where the table was not made."""
        frame = self.tables.get(table)
        if frame is None:
            return pd.DataFrame(columns=["writer"])
        mask = frame["writer"] == self.writer
        for column, value in where.items():
            mask &= frame[column] == value
        return frame[mask]

    def value(self, table: str, column: str, **where: object) -> float | None:
        """One number of the writer's, or ``None`` where it was not measured."""
        rows = self.rows(table, **where)
        return None if rows.empty or column not in rows else number(rows[column].iloc[0])

    def why_not(self, table: str) -> str:
        """Why a table lacks a number."""
        if table in self.tables:
            return "null in the table: too few tokens or shards, or nothing that varies"
        return f"not measured: the run made no table {table}"

    @cached_property
    def same_model(self) -> bool | None:
        """Whether this is the published model; ``None`` for a directory of its shape, whose weights nobody knows."""
        entry, published = find_entry(str(self.about["spec"])), find_entry(self.published.model)
        if entry is not None or published is None:
            return entry == published
        shape = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "act_fn", "attn_only")
        return None if all(self.about.get(key) == getattr(published.config, key) for key in shape) else False

    @cached_property
    def other_protocol(self) -> list[str]:
        """In what the run differs from the published protocol, ``prompts 8 (published: 300)``."""
        return [
            f"{key} {self.config.get(key)} (published: {value})"
            for key, value in self.published.protocol.items()
            if self.config.get(key) != value
        ]

    @cached_property
    def verified_on(self) -> str:
        """The prompts of the second stage."""
        rows = self.rows("eraser_group")
        return AGAIN if len(rows) and not bool(rows["held_out"].iloc[0]) else HELD_OUT

    @cached_property
    def readers(self) -> str | None:
        """The heads that read the writer and write against it, as the scan's rule finds them, joined by ``+``."""
        rows = self.rows("writers")
        found = None if rows.empty else rows["erasers"].iloc[0]
        return found if isinstance(found, str) else None

    @cached_property
    def groups(self) -> dict[str, str]:
        """The verified groups of erasers by what the report calls them: label in the tables."""
        by_rule = self.rows("eraser_group", chosen="rule") if "eraser_group" in self.tables else pd.DataFrame()
        other = {} if by_rule.empty else {RULES_HEADS: str(by_rule["group"].iloc[0])}
        return {PAPERS_HEADS: self.heads, **other}


def number(value: Any) -> float | None:
    """A float; ``None`` for a null."""
    return None if pd.isna(value) else float(value)


def _group_sum(results: Results, of: Number) -> Iterator[Measured]:
    """A quantile of PR of the erasers' sum: from the scan, which measures the named group too, and from verify."""
    column = f"clean_{of.statistic}"
    yield _found(results, "v_composition", column, {"eraser": results.heads}, PAPERS_HEADS, SCAN)
    ends = ("clean_median_low", "clean_median_high") if of.statistic == "median" else None
    for name, label in results.groups.items():
        yield _found(
            results, "eraser_group", column, {"group": label, "eraser": label}, name, results.verified_on, ends
        )


def _state_clean(results: Results, of: Number) -> Iterator[Measured]:
    yield _found(results, "residual_projection", str(of.statistic), {"state": of.state}, "clean", SCAN)
    at = {"eraser": results.heads, "patch": "layer", "state": of.state}
    column = f"clean_{of.statistic}"
    yield _found(results, "patched_residual_projection", column, at, "clean", results.verified_on)


def _state_patched(results: Results, of: Number) -> Iterator[Measured]:
    for variant, at in _patches(results):
        at, column = {**at, "state": of.state}, f"patched_{of.statistic}"
        yield _found(results, "patched_residual_projection", column, at, variant, results.verified_on)


def _patches(results: Results) -> Iterator[tuple[str, At]]:
    """The patches that stand for the published one, which is of the whole layer."""
    yield "whole layer patched", {"eraser": results.heads, "patch": "layer"}
    for name, label in results.groups.items():
        yield f"{name} patched", {"eraser": label, "patch": "group"}


def _share_by_v_composition(results: Results, of: Number) -> Iterator[Measured]:
    """(patched − clean) / (before − clean), of medians at the state behind the patch and the one before it."""
    table, layer = "patched_residual_projection", int(str(of.state)[-1])
    for variant, at in _patches(results):
        clean, patched = (results.value(table, f"{run}_median", state=of.state, **at) for run in ("clean", "patched"))
        before = results.value(table, "clean_median", state=f"resid_post{layer - 1}", **at)
        if clean is None or patched is None or before is None:
            yield Measured(variant, results.verified_on, why_not=results.why_not(table))
        elif before == clean:
            yield Measured(
                variant, results.verified_on, why_not="undefined: nothing is taken away between the two states"
            )
        else:
            yield Measured(variant, results.verified_on, (patched - clean) / (before - clean))


def _eraser_list(results: Results, of: Number) -> Iterator[Measured]:
    """Heads of the erasers' layer whose whole output opposes the writer, and what the rule finds in any layer."""
    rows, layer = results.rows("component_projection"), layer_of(results.published.erasers[0])
    opposed = rows[rows["component"].str.startswith(f"L{layer}H") & (rows["q75"].astype(float) < 0)]
    variant = f"layer {layer}, upper quartile < 0"
    if rows["q75"].isna().all():
        yield Measured(variant, SCAN, why_not=results.why_not("component_projection"))
    else:
        yield Measured(variant, SCAN, " ".join(opposed["component"]) or NONE)
    found = None if results.readers is None else results.readers.replace("+", " ") or NONE
    why = results.why_not("writers") if found is None else None
    yield Measured(f"rule, V-composed ≤ −{results.config.get('tau')}", SCAN, found, why_not=why)


def _dla(results: Results, of: Number) -> Iterator[Measured]:
    """A number of the line of the erasers' DLA on the writer's, under every effect that it may be of."""
    ends = {"r": ("low", "high"), "slope": ("slope_low", "slope_high")}.get(str(of.statistic))
    for effect in of.effects:
        for name, label in results.groups.items():
            stages = {"scan": SCAN, "verify": results.verified_on}
            if name != PAPERS_HEADS or effect not in ("full", "v_composition"):
                del stages["scan"]  # which measures the named group alone, and these effects
            variant = EFFECTS[effect] + ("" if name == PAPERS_HEADS else f", {name}")
            for stage, prompts in stages.items():
                at = {"eraser": label, "effect": effect, "stage": stage}
                yield _found(results, "dla_correlation", str(of.statistic), at, variant, prompts, ends)


def _found(
    results: Results,
    table: str,
    column: str,
    at: At,
    variant: str,
    prompts: str,
    ends: tuple[str, str] | None = None,
) -> Measured:
    """A number of a table, with its interval where it has one."""
    found = results.value(table, column, **at)
    if found is None:
        return Measured(variant, prompts, why_not=results.why_not(table))
    low, high = (results.value(table, end, **at) for end in ends) if ends else (None, None)
    return Measured(variant, prompts, found, low, high, results.value(table, "n", **at))


MEASURES: Mapping[str, Callable[[Results, Number], Iterator[Measured]]] = {
    "group_sum": _group_sum,
    "state_clean": _state_clean,
    "state_patched": _state_patched,
    "share_by_v_composition": _share_by_v_composition,
    "eraser_list": _eraser_list,
    "dla": _dla,
}
"""What finds a number's counterparts, the one nearest to the published protocol first, by the name in the list."""


class Entry(NamedTuple):
    """What a comparison says of the published side."""

    topic: str
    number: str
    statistic: str | None
    where: str
    published: float | str
    tolerance: float | None
    known: str


class Comparison(NamedTuple):
    """One published number beside one counterpart."""

    entry: Entry
    found: Measured
    difference: float | None
    """Measured minus published."""
    agrees: bool | None
    """Within tolerance or, where there is none, the same; ``None`` where it cannot be said."""
    counts: bool
    """Whether agreement counts: the counterpart nearest to the published protocol, of a number with one meaning."""


def compare(results: Results) -> list[Comparison]:
    """Every published number beside each of its counterparts; of another model none agrees or disagrees."""
    found = [*_numbers(results), *_prompts(results), *_residuals(results)]
    return [c._replace(agrees=None) for c in found] if results.same_model is False else found


def _numbers(results: Results) -> Iterator[Comparison]:
    for of in results.published.numbers:
        shown = of.value if isinstance(of.value, float) else " ".join(of.value)
        for index, found in enumerate(MEASURES[of.measure](results, of)):
            counts = index == 0 and len(of.effects) <= 1
            yield _beside(
                Entry(of.topic, of.what, of.statistic, of.where, shown, of.tolerance, of.known), found, counts
            )


def _beside(entry: Entry, found: Measured, counts: bool) -> Comparison:
    """A published number beside what was measured; without a tolerance agreement is equality.

    What the rule finds is another group of heads than the published one: it stands there without a difference.
    """
    difference, agrees = None, None
    if found.measured is not None and RULES_HEADS not in found.variant:
        agrees = found.measured == entry.published
        if isinstance(found.measured, float) and isinstance(entry.published, float) and entry.tolerance is not None:
            difference = found.measured - entry.published
            agrees = abs(difference) <= entry.tolerance + ROUNDING
    return Comparison(entry, found, difference, agrees, counts)


def _prompts(results: Results) -> Iterator[Comparison]:
    """The adversarial prompts: the model's two likeliest tokens, their logit difference, the other head to compare with."""
    source = results.published.adversarial
    for index, prompt in enumerate(results.published.prompts):
        for what, column, role, shown, tolerance in (
            ("likeliest token", "top", "writer", prompt.top, None),
            ("second token", "second", "writer", prompt.second, None),
            ("logit difference", "logit_diff", "writer", prompt.logit_diff, source.tolerance),
            ("other head with the highest DLA", "component", "other", prompt.other_head, None),
        ):
            entry = Entry("adversarial", what, None, source.where, shown, tolerance, source.known)
            measured = _at_prompt(results, index, column, role)
            why = why_no_prompts(results) if measured is None else None
            yield _beside(entry, Measured(f"prompt {index + 1}", "given", measured, why_not=why), counts=True)


def _at_prompt(results: Results, index: int, column: str, role: str) -> float | str | None:
    """What a column of ``adversarial`` says of a published prompt."""
    place = {"source": "given", "prompt": index, "inputs": "last", "role": role}
    rows = results.rows("adversarial", **place) if has_prompts(results) else pd.DataFrame()
    if rows.empty or pd.isna(rows[column].iloc[0]):
        return None
    value = rows[column].iloc[0]
    return str(value) if isinstance(value, str) else float(value)


def has_prompts(results: Results) -> bool:
    """Whether the published prompts were measured, in their order."""
    asked = results.config.get("adversarial_prompts") or []
    return "adversarial" in results.tables and asked[: len(results.published.prompts)] == [
        prompt.text for prompt in results.published.prompts
    ]


def why_no_prompts(results: Results) -> str:
    """Why the published prompts lack a number."""
    if not results.config.get("adversarial_prompts"):
        return "not measured: the prompts are text, and the model has no tokenizer"
    return results.why_not("adversarial")


def _residuals(results: Results) -> Iterator[Comparison]:
    """The published table of residual projections, each statistic of each row."""
    source, keys = results.published.residual, ["writer", "state"]
    measured = results.tables.get("residual_projection", pd.DataFrame(columns=[*keys, "n", *STATISTICS]))
    table = results.published.residual_projection.merge(
        measured[[*keys, "n", *STATISTICS]], on=keys, how="left", suffixes=("", "_measured")
    )
    for row in table.to_dict("records"):
        for statistic in STATISTICS:
            value, name = number(row[f"{statistic}_measured"]), f"{row['writer']} in {row['state']}"
            why = results.why_not("residual_projection") if value is None else None
            entry = Entry("residual", name, statistic, source.where, row[statistic], source.tolerance, source.known)
            yield _beside(entry, Measured("clean", SCAN, value, n=number(row["n"]), why_not=why), counts=True)


def as_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison, the published side first."""
    judged = ("difference", "agrees", "counts")
    return pd.DataFrame(
        [{**c.entry._asdict(), **c.found._asdict(), **{name: getattr(c, name) for name in judged}} for c in comparisons]
    )
