"""The literal oracle of an audit, in float64: one prompt, one component and one rerun at a time.

At the last token, u = mean unembedding of the answers − that of what is against them, g = u / clean final scale as the final
norm sees it, L(run) = final state of that run, as its norm sees it, · u / its own scale.

- DLA of a term: its output · g. d = (o − õ)·g, kept = õ·g, with õ in the writer's place from position ``first`` on.
- e = L(clean) − L(rerun with õ); m_c = (o_c − õ_c)·g of every later term; of the final norm L(rerun)(σ̃ / σ − 1).
- net: o − õ taken out of the stream, later heads rerun with clean patterns and scales, MLPs as they are.
- Together: one member after the other gets õ in the place of what it then writes.
- A prompt with several donors counts with its means over them; a single prompt's donors are the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.dla import STRONGEST
from tests.support.oracle.paths import rerun_without
from tests.support.oracle.scan import Activations, as_numpy, forward
from tests.support.oracle.sublayers import Weights, centre
from tests.support.oracle.verify_trust import (
    FINAL_NORM,
    LIMITS,
    NOTHING,
    STATISTICS,
    interval_of,
    leave_one_out,
    settled,
    word,
)

Others = Mapping[str, Sequence[np.ndarray]]
"""By writer, for each donor, what takes its place [pos, d_model]."""


class Asked(NamedTuple):
    """One prompt."""

    tokens: Sequence[int]
    answers: Sequence[int]
    against: Sequence[int]


class Found(NamedTuple):
    """One prompt's numbers."""

    dla: dict[str, float]
    """Of every term, and of ``b_U``."""
    total: float
    direct: dict[str, list[float]]
    effect: dict[str, list[float]]
    mediated: dict[tuple[str, str], list[float]]
    net: dict[str, list[float]]


class Along:
    """The logit difference of a prompt, and how far a run reaches along it."""

    def __init__(self, config: ModelConfig, w: Weights, asked: Asked) -> None:
        self.config, self.w, self.asked = config, w, asked
        self.clean = forward(config, w, asked.tokens)
        u = np.mean([w["W_U"][:, token] for token in asked.answers], axis=0)
        u = u - np.mean([w["W_U"][:, token] for token in asked.against], axis=0)
        self.u = centre(config, u)
        self.scale = float(self.clean.final_scale[-1])
        self.g = self.u / self.scale

    def reaches(self, run: Activations) -> float:
        return float(list(run.states.values())[-1][-1] @ self.u / run.final_scale[-1])

    def total(self) -> float:
        logits = self.clean.logits[-1]
        return float(np.mean(logits[list(self.asked.answers)]) - np.mean(logits[list(self.asked.against)]))

    def norm_part(self, run: Activations) -> float:
        return self.reaches(run) * (float(run.final_scale[-1]) / self.scale - 1.0)


def state_behind(layout: Layout, writer: str) -> str:
    return layout.states[layout.written_state(writer)]


def audit_prompt(config: ModelConfig, weights: Weights, asked: Asked, others: Others, first: int) -> Found:
    """Every number of one prompt."""
    w, layout = as_numpy(weights), config.layout
    along = Along(config, w, asked)
    clean, g = along.clean, along.g
    dla = {term: float(output[-1] @ g) for term, output in clean.terms.items()}
    bias = w["b_U"]
    dla["b_U"] = float(np.mean(bias[list(asked.answers)]) - np.mean(bias[list(asked.against)]))
    found = Found(dla, along.total(), {}, {}, {}, {})
    for writer in layout.writers:
        later = [layout.terms[index] for index in layout.later_terms(writer)]
        for other in others[writer]:
            change = other - clean.terms[writer]
            change[:first] = 0.0
            again = forward(config, w, asked.tokens, added={state_behind(layout, writer): change})
            found.direct.setdefault(writer, []).append(float(-change[-1] @ g))
            found.effect.setdefault(writer, []).append(along.reaches(clean) - along.reaches(again))
            found.net.setdefault(writer, []).append(
                float(rerun_without(config, w, clean, writer, -change).stream[-1] @ g)
            )
            for term in later:
                if not term.startswith("b_O"):
                    part = float((clean.terms[term] - again.terms[term])[-1] @ g)
                    found.mediated.setdefault((writer, term), []).append(part)
            found.mediated.setdefault((writer, FINAL_NORM), []).append(along.norm_part(again))
    return found


def ablate_together(
    config: ModelConfig, weights: Weights, asked: Asked, members: Sequence[str], others: Others, first: int
) -> tuple[list[dict[str, float]], list[float]]:
    """For each donor what everything contributes, members d and all else m, and the effect."""
    w, layout = as_numpy(weights), config.layout
    along = Along(config, w, asked)
    parts, effects = [], []
    for donor in range(len(others[members[0]])):
        added: dict[str, np.ndarray] = {}
        for member in sorted(members, key=layout.writers.index):
            now = forward(config, w, asked.tokens, added=added).terms[member]
            change = others[member][donor] - now
            change[:first] = 0.0
            state = state_behind(layout, member)
            added[state] = added.get(state, 0.0) + change
        again = forward(config, w, asked.tokens, added=added)
        part = {}
        for writer in layout.writers:
            if writer in members:
                change = others[writer][donor] - along.clean.terms[writer]
                part[writer] = float(-change[-1] @ along.g)
            elif writer not in layout.embeddings:
                part[writer] = float((along.clean.terms[writer] - again.terms[writer])[-1] @ along.g)
        part[FINAL_NORM] = along.norm_part(again)
        parts.append(part)
        effects.append(along.reaches(along.clean) - along.reaches(again))
    return parts, effects


def samples(found: Sequence[Found], of: Callable[[Found], Sequence[float]]) -> np.ndarray:
    """Of several prompts their means over donors; of one prompt its donors."""
    if len(found) == 1:
        return np.array(of(found[0]))
    return np.array([np.mean(of(one)) for one in found])


def mean_row(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = leave_one_out(values[:, None], lambda rows: float(rows.mean()))
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def share_of_means(d: np.ndarray, e: np.ndarray) -> tuple[float, tuple[float, float]]:
    """What arrives of a mean bar, and its interval."""
    both = np.stack([d, e], axis=1)

    def ratio(rows: np.ndarray) -> float:
        direct, effect = rows.sum(axis=0)
        return float(effect / direct) if direct != 0.0 else float("nan")

    return ratio(both), leave_one_out(both, ratio)


def bar_word(numbers: Mapping[str, float], limits: Mapping[str, float] = LIMITS) -> str | None:
    """Of a mean bar that tells what happens, the share is its size too."""
    related = numbers["r"] ** 2 >= limits["related"]
    return word({**numbers, **({"size": abs(numbers["share"])} if related else {})}, limits)


def component_row(found: Sequence[Found], label: str) -> dict[str, object]:
    """What the table says of a writer."""
    n = len(found[0].direct[label])
    x = samples(found, lambda one: [one.dla[label]] * n)
    d, e = (samples(found, lambda one, of=of: getattr(one, of)[label]) for of in ("direct", "effect"))
    squares = [
        samples(found, lambda one, left=left, right=right: np.multiply(left(one), right(one)).tolist())
        for left, right in (
            (lambda one: [one.dla[label]] * n,) * 2,
            (lambda one: one.direct[label],) * 2,
            (lambda one: one.effect[label],) * 2,
            (lambda one: one.direct[label], lambda one: one.effect[label]),
        )
    ]
    sums = np.stack(squares, axis=1)
    numbers = {name: statistic(sums.sum(axis=0)) for name, statistic in STATISTICS.items()}
    ends = {name: interval_of(sums, name) for name in STATISTICS}
    if abs(numbers["r"]) >= STRONGEST:
        ends["r"] = (numbers["r"], numbers["r"])
    numbers["share"], ends["share"] = share_of_means(d, e)
    said = bar_word(numbers)
    row: dict[str, object] = {"component": label, "word": said}
    row |= mean_row("dla", x) | mean_row("direct", d) | mean_row("effect", e)
    row |= {"kept": float(x.mean() - d.mean()), "net": float(samples(found, lambda one: one.net[label]).mean())}
    sure = numbers["varying"] <= NOTHING or settled(ends, LIMITS, bar_word) is True
    row["settled"] = None if said is None else sure
    for name in ("share", "r", "size"):
        low, high = ends["share"] if name == "share" else interval_of(sums, name)
        row |= {name: numbers[name], f"{name}_low": low, f"{name}_high": high}
    return row
