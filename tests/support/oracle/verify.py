"""The literal oracle of verify, in float64: every table by definition, each ablation a rerun of the whole forward pass.

A target is a writer w and the later heads G that are verified as its erasers; o is an output, u_G,x what G writes because
x is in its value inputs (``verify_setting``). Over the measured tokens of all prompts, none of them scanned:

- ``eraser_group``: PR(o_e, w), PR(u_e,w, w) and their difference, each e in G and their sum.
- ``nulls``: the same of G with w of other prompts in w's place; and of siblings and placebos, each with a group of its own
  (``verify_nulls``).
- ``patched_residual_projection`` and ``later_use``: PR of states and of later terms, clean and in a run in which the
  values of G (or of all heads of its layers) do not see centred(o_w) / (clean scale); ``patched_loss``: how much the loss
  of the next token rises in it.
- ``position_profile``: clean and patched by bins of positions that double in width.

The other tables are in ``tests.support.oracle.verify_effects``, ``_trust`` and ``_adversarial``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import Target
from erasure_sweep.workers.tables.registry import TABLES, tables_of
from tests.support.oracle.scan import TAU, Activations, forward, layer_of_head
from tests.support.oracle.sublayers import centre
from tests.support.oracle.verify_adversarial import adversarial_rows, token_rows
from tests.support.oracle.verify_effects import ablations, aligned_tokens, carries, effects, mlps, patched_losses
from tests.support.oracle.verify_nulls import Nulls, conclusion, find_nulls, null_group, placebo
from tests.support.oracle.verify_setting import (
    Field,
    Setting,
    added,
    arrange,
    beta,
    beta_interval,
    is_written,
    median_interval,
    named,
    quantiles,
    ratios,
)
from tests.support.oracle.verify_trust import scan_means, trust_tables

Row = dict[str, object]


COLUMNS = {name: [column.name for column in TABLES[name].own_columns] for name in tables_of("verify")}
COLUMNS["dla_correlation"].append("resolution")


def verify_tables(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    targets: Sequence[Target],
    positions: int | None = None,
    *,
    block: int = 4,
    seed: int = 0,
    first_prompt: int = 0,
    places: int = 4,
    given: Sequence[Sequence[int]] = (),
    donors: Sequence[int] | None = None,
    trust_prompts: int | None = None,
    trust_tokens: int | None = None,
    rotated_prompts: int = 0,
    means: np.ndarray | None = None,
    tau: float = TAU,
    held_out: bool = True,
    first_position: bool = True,
    scanned_prompts: int = 4,
    placebos: int = 3,
) -> dict[str, pd.DataFrame]:
    """All tables of verify by definition, without their ``model`` column.

    ``dla_correlation`` carries ``resolution`` beside the contract's columns, the spread of y in units of the erasers'
    whole DLA: tolerances are stated in it. Names of tokens are null.

    Args:
        config, weights: the processed model.
        tokens: ids [prompt, pos] of all prompts of the corpus.
        targets: whom to verify.
        positions: how many positions of each prompt are measured; None measures all.
        block: prompts of a block.
        seed: of all that is drawn.
        first_prompt: verify measures on the prompts from this one on.
        places: how many places of high attribution are tested of each writer.
        given: token ids of further prompts that are tested.
        donors: indices in the corpus of the prompts that donate inputs; None takes all of it.
        trust_prompts: on how many of the first prompts trust is measured; None takes all.
        trust_tokens: on how many of the first tokens of each; None takes all.
        rotated_prompts: on how many of them, the first, rotated outputs replace the writers' as well.
        means: of every term over the scan, in the order of the stream; by default over all prompts of the corpus.
        tau: what the verdict calls erased is at least this.
        held_out: what the tables say of the prompts.
        first_position: whether position 0 is measured, and part of what is taken out of a writer.
        scanned_prompts: on how many of the corpus' first prompts the nulls' groups are found.
        placebos: how many each writer has.
    """
    drawn = {"block": block, "seed": seed, "first_prompt": first_prompt, "first_position": first_position}
    s = arrange(config, weights, tokens, positions, **drawn)
    trusted = len(s.ids) if trust_prompts is None else trust_prompts
    scanned = arrange(config, weights, s.corpus[:scanned_prompts], positions, **(drawn | {"first_prompt": 0}))
    found = find_nulls(scanned, list(dict.fromkeys(target.writer for target in targets)), placebos)
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for target in targets:
        nulls = list(null_rows(s, target, found))
        rows["nulls"] += nulls
        rows["eraser_group"] += group_rows(s, target, nulls, tau, held_out)
        patched = {"group": patched_runs(s, target, whole_layers=False), "layer": patched_runs(s, target, True)}
        rows["patched_residual_projection"] += state_rows(s, target, patched)
        rows["later_use"] += later_use_rows(s, target, patched["group"])
        rows["patched_loss"] += patched_losses(s, target, patched)
        rows["position_profile"] += profile_rows(s, target)
        rows["carries"] += carries(s, target)
        lines, points = effects(s, target)
        rows["dla_correlation"] += lines
        rows["dla_points"] += points
    for writer in dict.fromkeys(target.writer for target in targets):
        rows["mlp_erasure"] += mlps(s, writer, found, tau)
        rows["ablation_loss"] += ablations(s, writer)
        rows["aligned_tokens"] += aligned_tokens(s, writer)
    writers = list(dict.fromkeys(target.writer for target in targets))
    if means is None:
        means = scan_means(
            s if first_prompt == 0 else arrange(config, weights, tokens, positions, **drawn | {"first_prompt": 0})
        )
    mean_of = dict(zip(s.stream.terms, means, strict=True))
    rows["adversarial"] = adversarial_rows(s, writers, places, given, donors, mean_of)
    rows["adversarial_tokens"] = list(token_rows(s, writers, places, given, mean_of))
    short = s.corpus[:, :trust_tokens]
    of_trust, few = (
        arrange(config, weights, short[: first_prompt + n], positions, **drawn) if n else None
        for n in (trusted, rotated_prompts)
    )
    assert of_trust is not None
    rows |= trust_tables(of_trust, mean_of, few)
    return {name: pd.DataFrame(rows[name], columns=columns) for name, columns in COLUMNS.items()}


def key_of(target: Target) -> Row:
    """The columns that name a target."""
    return {"writer": target.writer, "eraser": target.label}


def group_rows(s: Setting, target: Target, nulls: Sequence[Row], tau: float, held_out: bool) -> Iterator[Row]:
    """Each eraser by itself, then their sum with the verdict; a group with the name of its one head is its sum."""
    apart = [(head, (head,)) for head in target.erasers if head != target.label]
    w, valid, prompts = s.tokens(s.term(target.writer)), s.has_ratio(target.writer), s.prompts()
    parts = s.v_composed_by_head(target.erasers, s.source(target.writer))
    for label, heads in [*apart, (target.label, target.erasers)]:
        part = s.tokens(added([parts[head] for head in heads]))
        clean, read = ratios(s.tokens(sum_of(s, heads)), w, valid), ratios(part, w, valid)
        row: Row = {
            "writer": target.writer,
            "group": target.label,
            "eraser": label,
            "chosen": target.chosen,
            "held_out": held_out,
        }
        row |= quantiles(clean, "clean_") | quantiles(clean - read, "patched_") | quantiles(read, "v_composed_")
        row |= named("clean_median_", median_interval(prompts[valid], clean))
        row |= named("patched_median_", median_interval(prompts[valid], clean - read))
        row |= {"beta": beta(part, w)} | named("beta_", beta_interval(prompts, part, w))
        row |= {"position_share": math.nan, "verdict": None, "n": int(valid.sum())}
        if label == target.label:
            by_name = {(null["null"], null["of"]): null["beta"] for null in nulls}
            whole, position = by_name["measured", "v_composed"], by_name["position", "v_composed"]
            row |= {"position_share": position / whole if whole else math.nan, "verdict": conclusion(row, nulls, tau)}
        yield row


def sum_of(s: Setting, heads: Sequence[str]) -> Field:
    """What heads write together."""
    nothing = [np.zeros_like(run.terms["embed"]) for run in s.runs]
    return added([nothing, *(s.term(head) for head in heads)])


def null_rows(s: Setting, target: Target, nulls: Nulls) -> Iterator[Row]:
    """What the erasers do to their writer, and to what stands in its place."""
    output, stream = s.source(target.writer), s.written(target.writer)
    w, valid, o = s.tokens(output), s.has_ratio(target.writer), s.tokens(sum_of(s, target.erasers))
    yield null_row(s, target, "measured", "clean", o, w, valid)
    read = s.tokens(s.v_composed(target.erasers, output))
    yield null_row(s, target, "measured", "v_composed", read, w, valid)
    for name, permuted in (("shuffled", True), ("position", False)):
        onto, resid = (s.tokens(s.from_partner(field, permuted)) for field in (output, stream))
        yield null_row(s, target, name, "clean", o, onto, is_written(onto, resid))
        yield null_row(s, target, name, "v_composed", read, onto, is_written(onto, resid))
    for null in nulls.of(target.writer):
        if null.null == "siblings":
            field, where = s.source(null.direction), s.has_ratio(null.direction)
        else:
            field, where = placebo(s, target.writer, nulls.covariance[target.writer], int(null.direction) - 1), valid
        onto, heads = s.tokens(field), null_group(s, target, null)
        read = s.tokens(s.v_composed(heads, field))
        for of, vectors in (("clean", s.tokens(sum_of(s, heads))), ("v_composed", read)):
            yield null_row(s, target, null.null, of, vectors, onto, where, null.direction, heads)


def null_row(
    s: Setting,
    target: Target,
    null: str,
    of: str,
    vectors: np.ndarray,
    onto: np.ndarray,
    where: np.ndarray,
    direction: str = "",
    heads: Sequence[str] | None = None,
) -> Row:
    group = [head for head in s.stream.terms if head in (target.erasers if heads is None else heads)]
    row = key_of(target) | {"null": null, "direction": direction, "of": of, "heads": "+".join(group)}
    row |= quantiles(ratios(vectors, onto, where))
    ends = named("beta_", beta_interval(s.prompts(), vectors, onto))
    return row | {"beta": beta(vectors, onto)} | ends | {"n": int(where.sum())}


def patched_runs(s: Setting, target: Target, whole_layers: bool) -> list[Activations]:
    """Runs in which the values of the erasers, or of all heads of their layers, do not see the writer."""
    layers = {layer_of_head(head) for head in target.erasers}
    heads = [head for head in s.stream.terms if layer_of_head(head) in layers] if whole_layers else target.erasers
    runs = []
    for tokens, run, output in zip(s.ids, s.runs, s.source(target.writer), strict=True):
        written = centre(s.config, output)
        unseen = {head: written / run.ln1_scales[layer_of_head(head)][:, None] for head in heads}
        runs.append(forward(s.config, s.w, tokens, unseen=unseen))
    return runs


def state_rows(s: Setting, target: Target, patched: Mapping[str, list[Activations]]) -> Iterator[Row]:
    """PR of every state onto the writer, clean and in the two patched runs."""
    w, valid = s.tokens(s.term(target.writer)), s.has_ratio(target.writer)
    for patch, runs in patched.items():
        for state in s.runs[0].states:
            clean, after = s.tokens(s.state(state)), s.tokens([run.states[state] for run in runs])
            row = key_of(target) | {"patch": patch, "state": state}
            row |= quantiles(ratios(clean, w, valid), "clean_") | quantiles(ratios(after, w, valid), "patched_")
            yield row | {"clean_beta": beta(clean, w), "patched_beta": beta(after, w), "n": int(valid.sum())}


def later_use_rows(s: Setting, target: Target, patched: Sequence[Activations]) -> Iterator[Row]:
    """PR onto the writer of every term behind the attention of the last eraser, clean and in the patched run."""
    w, valid = s.tokens(s.term(target.writer)), s.has_ratio(target.writer)
    for term in s.stream.later_terms(max(target.erasers, key=layer_of_head)):
        clean, after = s.tokens(s.term(term)), s.tokens([run.terms[term] for run in patched])
        row = key_of(target) | {"component": term}
        row |= quantiles(ratios(clean, w, valid), "clean_") | quantiles(ratios(after, w, valid), "patched_")
        row |= {"clean_beta": beta(clean, w)} | named("clean_beta_", beta_interval(s.prompts(), clean, w))
        row |= {"patched_beta": beta(after, w), "response": beta(clean - after, w)}
        yield row | named("response_", beta_interval(s.prompts(), clean - after, w)) | {"n": int(valid.sum())}


def profile_rows(s: Setting, target: Target) -> Iterator[Row]:
    """The erasers' PR, clean and patched, and the writer's size, by bins of positions."""
    w, valid, at = s.tokens(s.term(target.writer)), s.has_ratio(target.writer), s.positions()
    o = s.tokens(sum_of(s, target.erasers))
    left = o - s.tokens(s.v_composed(target.erasers, s.source(target.writer)))
    first, last = 0, 0
    longest = s.corpus.shape[1]
    while first < longest:
        inside = (at >= first) & (at <= last)
        row = key_of(target) | {"first_position": first, "last_position": min(last, longest - 1)}
        for prefix, vectors in (("clean_", o), ("patched_", left)):
            row |= quantiles(ratios(vectors, w, valid & inside), prefix)
        norm = math.sqrt((w[inside] ** 2).sum() / inside.sum()) if inside.any() else math.nan
        yield row | {"writer_norm": norm, "n": int((valid & inside).sum())}
        first, last = last + 1, 2 * last + 1
