"""The literal oracle of what stands in a writer's place: placebos, siblings, their groups, and the verdict.

- Σ: the covariance of the stream at the state that first holds the writer, over the measured tokens of the scan's prompts.
- A placebo of an output o is Σ^½ Q Σ^−½ o, Q a rotation of Σ's span. Of Q only what it makes of the writer's outputs is
  drawn: it takes an orthonormal frame of Σ^−½ (rows of W_O, or everything) to a random one.
- A head's share of something x is −β of what the head adds because of x, all later heads passing it on; x's erasers are
  the heads with positive shares, the largest first. A null's group are as many of them as the writer's group has heads.
- Verdict: by the upper end of the writer's β and the β of the nulls (``conclusion``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import NullErasers, Target
from tests.support.oracle.scan import layer_of_head
from tests.support.oracle.sublayers import output_weights, place_of
from tests.support.oracle.verify_setting import Field, Setting, beta

RANK, OWN_RANK = 1e-8, 1e-10
"""Directions whose variance is less than this share of the largest do not count."""


class Nulls(NamedTuple):
    """What stands in the place of each verified writer."""

    covariance: dict[str, np.ndarray]
    """By writer."""
    draws: int
    erasers: tuple[NullErasers, ...]

    def of(self, writer: str) -> list[NullErasers]:
        return [null for null in self.erasers if null.writer == writer]


def find_nulls(scanned: Setting, writers: Sequence[str], draws: int) -> Nulls:
    """Who takes out the nulls of some writers on the scan's prompts."""
    covariance = {writer: covariance_at(scanned, writer) for writer in writers}
    erasers = []
    for writer in writers:
        heads = later_heads(scanned, writer)
        kin = {("siblings", sibling): scanned.source(sibling) for sibling in siblings(scanned, writer)}
        for draw in range(draws):
            kin["placebo", str(draw + 1)] = placebo(scanned, writer, covariance[writer], draw)
        for (null, direction), field in kin.items():
            erasers.append(NullErasers(writer, null, direction, erasers_of(scanned, field, heads)))
    return Nulls(covariance, draws, tuple(erasers))


def covariance_at(s: Setting, writer: str) -> np.ndarray:
    """Σ."""
    stream = s.tokens(s.written(writer))
    apart = stream - stream.mean(axis=0)
    return apart.T @ apart / len(apart)


def placebo(s: Setting, writer: str, covariance: np.ndarray, draw: int) -> Field:
    """A placebo at every position of every prompt."""
    turn = turn_of(s, writer, covariance, draw)
    return [output @ turn.T for output in s.source(writer)]


def turn_of(s: Setting, writer: str, covariance: np.ndarray, draw: int) -> np.ndarray:
    """Σ^½ Q Σ^−½."""
    half, inverse, span = roots(covariance, RANK)
    rows = (
        output_weights(s.config, s.w, place_of(writer))
        if layer_of_head(writer) is not None
        else np.eye(s.config.d_model)
    )
    own = inverse @ rows.T
    left, values, right = np.linalg.svd(own, full_matrices=False)
    within = values**2 > OWN_RANK * max(float((values**2).max()), np.finfo(float).tiny)
    # an orthonormal frame of the writer's outputs, each vector beside one of its coordinates
    frame, coordinates = left[:, within] @ right[within], right[within].T @ right[within]
    key = int(hash_u64(s.seed, s.config.layout.writers.index(writer), draw))
    gauss = np.random.Generator(np.random.Philox(key=key)).standard_normal((s.config.d_model, len(rows)))
    left, _, right = np.linalg.svd(span @ gauss @ coordinates, full_matrices=False)
    drawn = left[:, : within.sum()] @ right[: within.sum()]
    rotation = drawn @ frame.T
    return half @ rotation @ inverse


def roots(matrix: np.ndarray, rank: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square root, inverse square root and projection of a symmetric matrix, on the span where it has rank."""
    half, inverse, span = (np.zeros_like(matrix) for _ in range(3))
    values, vectors = np.linalg.eigh(matrix)
    for value, vector in zip(values, vectors.T, strict=True):
        if value > rank * values.max() and value > 0.0:
            projection = np.outer(vector, vector)
            half, inverse, span = (
                half + math.sqrt(value) * projection,
                inverse + projection / math.sqrt(value),
                span + projection,
            )
    return half, inverse, span


def shares_of(s: Setting, field: Field, heads: Sequence[str]) -> dict[str, float]:
    """Of each head the share of a field that it takes out, all of them passing on what they read."""
    onto = s.tokens(field)
    return {head: -beta(s.tokens(added), onto) for head, added in s.v_composed_by_head(heads, field).items()}


def erasers_of(s: Setting, field: Field, heads: Sequence[str]) -> tuple[str, ...]:
    """The heads that take something out of a field, the largest share first."""
    shares = shares_of(s, field, heads)
    return tuple(sorted((head for head in heads if shares[head] > 0.0), key=lambda head: -shares[head]))


def group_of(s: Setting, writer: str) -> tuple[str, ...]:
    """The group's rule: heads by their positive shares until 90 % of the sum of these, in the order of the stream."""
    heads = later_heads(s, writer)
    shares, group = shares_of(s, s.source(writer), heads), []
    ordered = erasers_of(s, s.source(writer), heads)
    while sum(shares[head] for head in group) < 0.9 * sum(shares[head] for head in ordered):
        group.append(ordered[len(group)])
    return tuple(head for head in heads if head in group)


def null_group(s: Setting, target: Target, null: NullErasers) -> tuple[str, ...]:
    """A null's group: as many heads as the writer has, or all where the writer has all."""
    if target.chosen == "all":
        return target.erasers
    return null.heads[: len(target.erasers)]


def later_heads(s: Setting, writer: str) -> list[str]:
    """Heads of layers behind the writer's, in the order of the stream."""
    layer = layer_of_head(writer)
    if layer is None:
        layer = int(writer.removeprefix("MLP")) if writer.startswith("MLP") else -1
    heads = [term for term in s.stream.terms if layer_of_head(term) is not None]
    return [head for head in heads if place_of(head)[0] > layer]


def siblings(s: Setting, writer: str) -> list[str]:
    """Components that write where the writer does: the other heads of its layer, the other embedding."""
    if writer in ("embed", "pos_embed"):
        return [term for term in s.stream.terms if term in ("embed", "pos_embed") and term != writer]
    layer = layer_of_head(writer)
    return [term for term in s.stream.terms if layer is not None and layer_of_head(term) == layer and term != writer]


def conclusion(row: Mapping[str, object], nulls: Sequence[Mapping[str, object]], tau: float) -> str | None:
    """The verdict on a group's row of ``eraser_group``, from its rows of ``nulls``."""
    value, high = (float(str(row[name])) for name in ("beta", "beta_high"))
    of: dict[str, list[float]] = {"placebo": [], "siblings": []}
    for null in nulls:
        if null["of"] == "v_composed" and null["null"] in of and not math.isnan(float(str(null["beta"]))):
            of[str(null["null"])].append(float(str(null["beta"])))
    if math.isnan(high) or not of["placebo"]:
        return None
    alike = {name: bool(betas) and np.median(betas) < min(-tau, value / 2) for name, betas in of.items()}
    if high >= -tau:
        return "not found"
    if high >= min(of["placebo"]) or high >= np.median(of["placebo"]) - tau:
        return "shrinks everything" if alike["placebo"] else "not found"
    return "erased, with its siblings" if alike["siblings"] else "erased"
