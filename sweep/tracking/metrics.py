"""A model's result in a few numbers and names: what MLflow puts beside other models before anyone opens a table."""

from __future__ import annotations

import math
import re
from collections import Counter

from erasure_sweep.workers.manifest import ManifestEntry
from erasure_sweep.workers.tables.facts.adversarial import fooled
from erasure_sweep.workers.tables.facts.erasers import broad_erasers
from erasure_sweep.workers.tables.facts.erasure import erased_shares, half_gone, significant_pairs
from erasure_sweep.workers.tables.facts.heads import diluted_of, head_shares, largest_of, quantile_of, shown_heads
from erasure_sweep.workers.tables.facts.trust import WORDS, settled_words, trust_of
from erasure_sweep.workers.tables.facts.verdict import ERASED, NOT_FOUND, SHRINKS, WITH_SIBLINGS
from erasure_sweep.workers.tables.facts.verified import verdicts
from erasure_sweep.workers.tables.values import Tables, numeric, rows_where, table_of

_FEW_HEADS = 8
"""Of as many heads the largest is comparable: all but the smallest models have them."""
_VERDICTS = (ERASED, WITH_SIBLINGS, SHRINKS, NOT_FOUND)
_SIZES = ("n_layers", "n_heads", "d_model", "n_params", "training_tokens")


def size_metrics(entry: ManifestEntry) -> dict[str, float]:
    """A model's sizes in ``model/``, for charts that take no parameters of runs; what is not known is left out.

    Args:
        entry: the model's in the manifest.
    """
    return {f"model/{name}": float(size) for name in _SIZES if (size := getattr(entry, name)) is not None}


def model_metrics(tables: Tables) -> dict[str, float]:
    """The few numbers of a scan that can be held against another model's; what was not measured is left out.

    Of heads, in ``erased/``, with means removed where that was measured: the ``heads_median`` of what later heads take out;
    ``heads_most``, the largest, which grows with the number of heads alone; so beside it ``heads_most_of_8``, what the
    largest of eight of them drawn at random would be, which does not; ``heads_diluted``, the median of what growth of the
    stream takes; and ``heads_median_plain``, with means kept. Of all writers ``most``, and of every writer with every later
    head the ``significant_share``, the share of false ones among them held at 5 %; and the number of heads that are
    ``broad_erasers``. ``ledger/half_gone`` is the share of writers that end with less than half of what they wrote, with means
    removed where that was measured, of those with a positive share written.
    """
    if tables.get("writers") is None:
        return {}
    half, pairs = half_gone(tables), significant_pairs(tables)
    found = {"ledger/half_gone": half.n / half.of if half.of else math.nan}
    heads, plain = shown_heads(tables), head_shares(tables)
    shares = erased_shares(tables, centred=True) or erased_shares(tables)
    found |= {
        "erased/heads_median": quantile_of(heads, 0.5).value,
        "erased/heads_most": heads.largest[1],
        "erased/heads_most_of_8": largest_of(heads.shares, _FEW_HEADS).value,
        "erased/heads_diluted": diluted_of(tables, heads.labels),
        "erased/heads_median_plain": quantile_of(plain, 0.5).value,
        "erased/most": max(shares.values(), default=math.nan),
        "erased/significant_share": pairs.n / pairs.of if pairs else math.nan,
        "erased/broad_erasers": float(len(broad_erasers(tables))) if "erasers" in tables else math.nan,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def verify_metrics(tables: Tables) -> dict[str, float]:
    """The few numbers of verify that can be held against another model's; what was not measured is left out.

    In ``verify/`` how many groups have each verdict; ``erasing_worth_most``, the largest mean increase of the loss when a group
    does not read its writer, of those whose whole interval lies above 0; and ``fooled_share``, of the places of high DLA that
    count, those at which less than a quarter of it arrives. In ``trust/`` the ``settled_share`` of components of which a word
    was told, and of the settled ones the share that has each word.
    """
    verdict_counts = Counter(verdict.word for verdict in verdicts(tables) if verdict.word)
    found = {f"verify/{_key(word)}": float(verdict_counts[word]) for word in _VERDICTS if verdict_counts}
    patched = rows_where(table_of(tables, "patched_loss"), patch="group")
    worth = numeric(patched, "increase_mean")[numeric(patched, "increase_mean_low") > 0]
    if len(worth):
        found["verify/erasing_worth_most"] = float(worth.max())
    if (tested := fooled(tables, "shown")).of:
        found["verify/fooled_share"] = tested.n / tested.of
    words, settled = trust_of(tables), settled_words(tables)
    if words:
        found["trust/settled_share"] = len(settled) / len(words)
    counts = Counter(settled.values())
    found |= {f"trust/{_key(word)}_share": counts[word] / len(settled) for word in WORDS if settled}
    return found


def _key(word: str) -> str:
    """A word as part of a metric's name: ``partly cancelled`` as ``partly_cancelled``."""
    return re.sub(r"\W+", "_", word)
