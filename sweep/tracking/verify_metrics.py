"""What verify found of a model, in the few numbers that can be held against another model's."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from erasure_sweep.sweep.tracking.verified import trust_counts, verified_targets


def verify_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The metrics; what was not measured is left out.

    Of the verified writers, in ``verify/``: the number of ``erased_writers``, whose erasure holds on these prompts;
    ``group_beta_most``, the most negative coefficient of a group's V-composed part; ``presence_restored``, by how much the
    median presence of the writer behind its erasers rises when they do not read it, the most of all targets; and
    ``loss_increase_most``, the largest mean increase of the loss when a writer's output is replaced by another prompt's. Of
    all writers, in ``trust/``: how many attributions are ``trusted``, ``partly_cancelled``, ``cancelled``, ``reversed``; and
    ``trusted_share``, of those of which it could be told.
    """
    found: dict[str, float] = {}
    if targets := verified_targets(tables):
        found["verify/erased_writers"] = float(len({t.writer for t in targets if t.verdict == "erased"}))
        found["verify/group_beta_most"] = -_most([-target.beta for target in targets])
        found["verify/presence_restored"] = _most([target.patched - target.clean for target in targets])
    if "ablation_loss" in tables:
        found["verify/loss_increase_most"] = _most(tables["ablation_loss"]["increase_mean"].astype(float).tolist())
    counts = trust_counts(tables)
    names = {"trust": "trusted"}
    found |= {f"trust/{names.get(word, word).replace(' ', '_')}": float(n) for word, n in counts.items()}
    if known := sum(counts.values()):
        found["trust/trusted_share"] = counts["trust"] / known
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _most(values: list[float]) -> float:
    return max((value for value in values if math.isfinite(value)), default=math.nan)
