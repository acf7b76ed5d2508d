"""A model's result in a few numbers and names: what MLflow puts beside other models before anyone opens a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from erasure_sweep.dashboards.model_tables import kind_of
from erasure_sweep.dashboards.plots.strips import NOTICEABLE

_SIZES = ("n_layers", "n_heads", "d_model", "n_params", "training_tokens")


def size_metrics(about: Mapping[str, Any]) -> dict[str, float]:
    """A model's sizes in ``model/``, for charts that take no parameters of runs; what is not known is left out.

    Args:
        about: the model's entry in the manifest.
    """
    return {f"model/{name}": float(about[name]) for name in _SIZES if about.get(name) is not None}


def model_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The few numbers of a scan that can be held against another model's; what was not measured is left out.

    From what later heads take because they read a writer, ``reading/`` and ``reading_centred/``: ``most_erased``, the
    largest ``erased_by_reading`` of all writers, and the ``erased_median``; of heads alone ``most_erased_head``; the
    ``median_dla_slope`` of writers that have erasers; and ``significant_share``, of every writer with every later head,
    the share of false ones among the significant held at 5 %. From the ledger, pooled coefficients β in ``erasure/``:
    ``writers_measured``, ``most_opposed`` (the smallest), ``remaining_median`` and ``writers_half_erased`` (the share that
    ends with less than half of what it wrote).
    """
    if "writers" not in tables:
        return {}
    writers = tables["writers"]
    found = {"erasure/writers_measured": float(writers["remaining"].notna().sum())}
    ledger = writers[["written", "remaining", "opposed"]].astype(float)
    found |= {f"erasure/{name}": value for name, value in _ledger_metrics(ledger).items()}
    found |= _reading_metrics(writers) | _significance_metrics(tables.get("v_composition"))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _reading_metrics(writers: pd.DataFrame) -> dict[str, float]:
    measured = erased_writers(writers)
    if measured.empty:
        return {}
    found = {
        f"reading{suffix}/{name}": float(getattr(measured[f"erased_by_reading{suffix}"].astype(float), how)())
        for suffix in ("", "_centred")
        for name, how in (("most_erased", "max"), ("erased_median", "median"))
    }
    heads = measured.loc[is_head(measured["writer"]), "erased_by_reading"].astype(float)
    erased = measured[measured["erasers"].fillna("") != ""]
    return found | {
        "reading/most_erased_head": float(heads.max()),
        "reading/median_dla_slope": float(erased["dla_slope"].astype(float).median()),
    }


def erased_writers(writers: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table in which ``erased_by_reading`` was measured, the most erased first."""
    if "erased_by_reading" not in writers:
        return writers.head(0)
    measured = writers.dropna(subset=["erased_by_reading"])
    return measured.iloc[(-measured["erased_by_reading"].astype(float)).argsort(kind="stable")]


def is_head(writers: pd.Series[str]) -> pd.Series[bool]:
    """Which labels of writers are those of heads."""
    return writers.astype(str).map(kind_of) == "head"


def most_erased(writers: pd.DataFrame) -> dict[str, str]:
    """The writer and the head that later heads erase most, by ``most_erased`` and ``most_erased_head``.

    Neither where nothing is erased.
    """
    measured = erased_writers(writers)
    found = measured[measured["erased_by_reading"].astype(float) >= NOTICEABLE] if len(measured) else measured
    heads = found[is_head(found["writer"])]
    rows = {"most_erased": found, "most_erased_head": heads}
    return {name: str(table["writer"].iloc[0]) for name, table in rows.items() if len(table)}


def _significance_metrics(pairs: pd.DataFrame | None) -> dict[str, float]:
    # Runs of other versions tested nothing, and one shard alone leaves nothing to test with.
    if pairs is None or "significant" not in pairs or pairs["significant"].isna().all():
        return {}
    tested = pairs["significant"].dropna().astype(bool)
    return {"reading/significant_share": float(tested.mean())}


def _ledger_metrics(ledger: pd.DataFrame) -> dict[str, float]:
    measured = ledger.dropna()
    return {
        "most_opposed": float(measured["opposed"].min()),
        "remaining_median": float(measured["remaining"].median()),
        "writers_half_erased": float(half_erased(measured).mean()) if len(measured) else math.nan,
    }


def half_erased(ledger: pd.DataFrame) -> pd.Series[bool]:
    """Which writers end with less than half of what they wrote; one that wrote nothing or less is not erased."""
    return (ledger["written"] > 0) & (ledger["remaining"] < ledger["written"] / 2)
