"""The literal oracle of verify: how far a component's direct logit attribution can be trusted.

Per writer and token: x its DLA; net, x and what later heads take back because it is in their value inputs; δ, how much
its DLA changes when its output is replaced by the partner's at a permuted position; and what that replacement does to
the same logit difference when the model is run again behind it, along the clean run's direction g (*effect*) and with
the final scale of the rerun (*recomputed*). The slope of the effect on δ names the verdict: 1 where nothing reacts, 0
where all is cancelled.
"""

from __future__ import annotations

import math

import numpy as np

from tests.support.oracle.dla import correlate, is_constant
from tests.support.oracle.scan import is_later_head
from tests.support.oracle.verify_effects import line_interval
from tests.support.oracle.verify_reruns import rerun
from tests.support.oracle.verify_setting import Setting, dot, named

Row = dict[str, object]


def trust_rows(s: Setting) -> list[Row]:
    """Every writer, in the order in which they write."""
    return [trust_row(s, writer) for writer in s.stream.writers]


def trust_row(s: Setting, writer: str) -> Row:
    output, g = s.source(writer), s.tokens(s.logit_directions())
    other = s.from_partner(output, permuted=True)
    later = [head for head in s.stream.terms if is_later_head(head, writer)]
    x = dot(s.tokens(output), g)
    net = x + sum(dot(s.tokens(s.v_composed([head], output)), g) for head in later)
    change = dot(s.tokens(output) - s.tokens(other), g)
    effect, recomputed = effects_of(s, writer, [b - a for a, b in zip(output, other, strict=True)])
    of_net, of_effect, of_recomputed = correlate(x, net), correlate(change, effect), correlate(change, recomputed)
    row: Row = {"writer": writer, "dla_mean_abs": np.abs(x).mean(), "net_mean_abs": np.abs(net).mean()}
    row |= {"effect_mean_abs": np.abs(effect).mean(), "net_slope": of_net["slope"], "net_r": of_net["r"]}
    row |= {"effect_slope": of_effect["slope"], "effect_r": of_effect["r"]}
    row |= named("", line_interval(s, change, effect, np.ones(len(x), dtype=bool), "slope"))
    row |= {"effect_slope_recomputed": of_recomputed["slope"], "effect_r_recomputed": of_recomputed["r"]}
    return row | {"trust": None if is_constant(change) else word(of_effect["slope"]), "n": len(x)}


def effects_of(s: Setting, writer: str, edit: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clean logit difference without that of a run whose stream is edited where the writer writes, both readings."""
    state, final, frozen, recomputed = s.stream.written_state(writer), list(s.stream.states)[-1], [], []
    for row, (g, top) in enumerate(zip(s.logit_directions(), s.top_two(), strict=True)):
        clean, again = s.runs[row], rerun(s.config, s.w, s.ids[row], added={state: edit[row]})
        frozen.append(dot(clean.states[final] - again.states[final], g))
        every = np.arange(s.seq_len)
        differences = [run.logits[every, top[:, 0]] - run.logits[every, top[:, 1]] for run in (clean, again)]
        recomputed.append(differences[0] - differences[1])
    return s.tokens(frozen), s.tokens(recomputed)


def word(slope: float) -> str | None:
    """What readers are told of a slope of the effect on the direct change."""
    if math.isnan(slope):
        return None
    if slope >= 0.75:
        return "trust"
    if slope >= 0.25:
        return "partly cancelled"
    return "cancelled" if slope > -0.25 else "reversed"
