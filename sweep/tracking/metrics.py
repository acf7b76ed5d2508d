"""A model's result in a few numbers and names: what MLflow puts beside other models before anyone opens a table."""

from __future__ import annotations

import math

import numpy as np

from erasure_sweep.workers.manifest import ManifestEntry
from erasure_sweep.workers.tables.facts.adversarial import fooled
from erasure_sweep.workers.tables.facts.erasers import broad_erasers
from erasure_sweep.workers.tables.facts.erasure import erased_writers, half_erased, significant_pairs
from erasure_sweep.workers.tables.facts.trust import HOLDS, trust_counts, unsettled_of
from erasure_sweep.workers.tables.facts.verdict import FOUND
from erasure_sweep.workers.tables.facts.verified import verdicts
from erasure_sweep.workers.tables.values import Floats, Tables, numeric, rows_where, strings, table_of

_SIZES = ("n_layers", "n_heads", "d_model", "n_params", "training_tokens")


def size_metrics(entry: ManifestEntry) -> dict[str, float]:
    """A model's sizes in ``model/``, for charts that take no parameters of runs; what is not known is left out.

    Args:
        entry: the model's in the manifest.
    """
    return {f"model/{name}": float(size) for name in _SIZES if (size := getattr(entry, name)) is not None}


def model_metrics(tables: Tables) -> dict[str, float]:
    """The few numbers of a scan that can be held against another model's; what was not measured is left out.

    From what later heads take because they read a writer, ``reading/`` and ``reading_centred/``: ``most_erased``, the
    largest ``erased`` of all writers, and the ``erased_median``; of heads alone ``most_erased_head``; the
    ``median_dla_slope`` of writers that have erasers; ``significant_share``, of every writer with every later head, the
    share of false ones among the significant held at 5 %; and the number of heads that are ``broad_erasers``. From the
    ledger, pooled coefficients β in ``erasure/``: ``writers_measured``, ``most_opposed`` (the smallest),
    ``remaining_median`` and ``writers_half_erased`` (the share that ends with less than half of what it wrote).
    """
    writers = tables.get("writers")
    if writers is None:
        return {}
    remaining, half = numeric(writers, "remaining"), half_erased(tables)
    found = {
        "erasure/writers_measured": float(half.of),
        "erasure/most_opposed": -_most(-numeric(writers, "opposed")),
        "erasure/remaining_median": _median(remaining),
        "erasure/writers_half_erased": half.n / half.of if half.of else math.nan,
    }
    found |= _reading_metrics(tables)
    if "erasers" in tables:
        found["reading/broad_erasers"] = float(len(broad_erasers(tables)))
    if pairs := significant_pairs(tables):
        found["reading/significant_share"] = pairs.n / pairs.of
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _reading_metrics(tables: Tables) -> dict[str, float]:
    measured = erased_writers(tables)
    found = {}
    for suffix in ("", "_centred"):
        shares = numeric(measured, f"erased{suffix}")
        found[f"reading{suffix}/most_erased"] = _most(shares)
        found[f"reading{suffix}/erased_median"] = _median(shares)
    found["reading/most_erased_head"] = _most(numeric(erased_writers(tables, heads=True), "erased"))
    has_erasers = [bool(erasers) for erasers in strings(measured, "erasers")]
    found["reading/median_dla_slope"] = _median(numeric(measured, "dla_slope")[has_erasers])
    return found


def _most(values: Floats) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else math.nan


def _median(values: Floats) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def verify_metrics(tables: Tables) -> dict[str, float]:
    """The few numbers of verify that can be held against another model's; what was not measured is left out.

    Of the verified writers, in ``verify/``: the number of ``erased_writers``, found ``erased``;
    ``group_beta_most``, the most negative coefficient of a group's V-composed part; ``presence_restored``, by how much the
    median presence of the writer behind its erasers rises when they do not read it, the most of all groups;
    ``erasing_worth_most``, the largest mean increase of the loss when a group does not read its writer, of those whose whole
    interval lies above 0; ``fooled_share``, of the places of high DLA that count, those at which less than a quarter of it
    arrives; and ``loss_increase_most``, the largest mean increase of the loss when a writer's output is replaced by another
    prompt's. Of all writers, in ``trust/``: how many attributions have each word (``holds``, ``amplified``,
    ``partly_cancelled``, ``cancelled``, ``reversed``, ``unrelated``, ``constant``), how many of these are ``unsettled``; and
    ``holds_share``, of those of which it could be told.
    """
    found: dict[str, float] = {}
    if verified := verdicts(tables):
        found["verify/erased_writers"] = float(
            len({verdict.group.writer for verdict in verified if verdict.word in FOUND})
        )
        found["verify/group_beta_most"] = -_most(np.array([-verdict.beta.value for verdict in verified]))
        restored = [verdict.presence.patched - verdict.presence.clean for verdict in verified]
        found["verify/presence_restored"] = _most(np.array(restored))
    patched = rows_where(table_of(tables, "patched_loss"), patch="group")
    surely = numeric(patched, "increase_mean_low") > 0
    found["verify/erasing_worth_most"] = _most(numeric(patched, "increase_mean")[surely])
    tested = fooled(tables, "shown")
    found["verify/fooled_share"] = tested.n / tested.of if tested.of else math.nan
    found["verify/loss_increase_most"] = _most(numeric(table_of(tables, "ablation_loss"), "increase_mean"))
    counts = trust_counts(tables)
    found |= {f"trust/{word.replace(' ', '_')}": float(n) for word, n in counts.items()}
    if known := sum(counts.values()):
        found |= {"trust/unsettled": float(len(unsettled_of(tables))), "trust/holds_share": counts[HOLDS] / known}
    return {name: value for name, value in found.items() if math.isfinite(value)}
