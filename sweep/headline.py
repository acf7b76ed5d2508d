"""A model's result in a few numbers and a few lines: what is put beside other models before anyone opens a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd


def model_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The few numbers of a model that can be held against another model's; what was not measured is left out.

    From what later heads take because they read a writer, ``reading/`` and ``reading_centred/``: the most and the median
    ``erased_by_reading``; the number of ``pairs`` of writer and eraser, and the ``median_dla_slope`` of writers that have
    erasers; of the ``pairs_tested``, every writer with every later head, the number of ``significant_pairs``, the share
    of false ones among them held at 5 %. From the ledger, pooled coefficients β in ``erasure/`` and their centred twins
    in ``erasure_centred/``. Over all writers: ``opposed_median``, ``remaining_median``, ``most_opposed`` (the smallest)
    and ``writers_half_erased`` (the share that ends with less than half of what it wrote). Of two writers:
    ``embed_remaining``, ``pos_embed_remaining``.
    """
    if "writers" not in tables:
        return {}
    writers = tables["writers"].set_index("writer")
    found = {"erasure/writers_measured": float(writers["remaining"].notna().sum())}
    for group, suffix in (("erasure", ""), ("erasure_centred", "_centred")):
        ledger = writers[[f"written{suffix}", f"remaining{suffix}", f"opposed{suffix}"]].astype(float)
        ledger.columns = pd.Index(["written", "remaining", "opposed"])
        found |= {f"{group}/{name}": value for name, value in _ledger_metrics(ledger).items()}
    found |= _reading_metrics(tables["writers"]) | _significance_metrics(tables.get("v_composition"))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _reading_metrics(writers: pd.DataFrame) -> dict[str, float]:
    if "erased_by_reading" not in writers or writers["erased_by_reading"].isna().all():
        return {}
    measured = writers.dropna(subset=["erased_by_reading"])
    found = {
        f"reading{suffix}/{name}": float(getattr(measured[f"erased_by_reading{suffix}"].astype(float), how)())
        for suffix in ("", "_centred")
        for name, how in (("most_erased", "max"), ("erased_median", "median"))
    }
    erased = measured[measured["erasers"].fillna("") != ""]
    pairs = erased["erasers"].str.count(r"\+").add(1).sum()
    slope = float(erased["dla_slope"].astype(float).median()) if len(erased) else math.nan
    return found | {"reading/pairs": float(pairs), "reading/median_dla_slope": slope}


def _significance_metrics(pairs: pd.DataFrame | None) -> dict[str, float]:
    # Runs of other versions tested nothing, and one shard alone leaves nothing to test with.
    if pairs is None or "significant" not in pairs or pairs["significant"].isna().all():
        return {}
    tested = pairs["significant"].dropna().astype(bool)
    return {"reading/significant_pairs": float(tested.sum()), "reading/pairs_tested": float(len(tested))}


def _ledger_metrics(ledger: pd.DataFrame) -> dict[str, float]:
    measured = ledger.dropna()
    found = {
        "opposed_median": float(measured["opposed"].median()),
        "most_opposed": float(measured["opposed"].min()),
        "remaining_median": float(measured["remaining"].median()),
        "writers_half_erased": float(half_erased(measured).mean()) if len(measured) else math.nan,
    }
    return found | {
        f"{writer}_remaining": float(measured["remaining"][writer])
        for writer in ("embed", "pos_embed")
        if writer in measured.index
    }


def half_erased(ledger: pd.DataFrame) -> pd.Series[bool]:
    """Which writers end with less than half of what they wrote; one that wrote nothing or less is not erased."""
    return (ledger["written"] > 0) & (ledger["remaining"] < ledger["written"] / 2)


def headline(writers: pd.DataFrame, top: int = 5) -> str:
    """A model's result in a few lines of markdown, which MLflow shows above its run."""
    shown = ["writer", "written", "remaining", "opposed", "erased_by_reading", "erasers", "rank"]
    # Runs of other versions are read as well: what they have not measured is not there.
    measured = (
        writers.reindex(columns=shown)
        .dropna(subset=["written", "remaining", "opposed"])
        .astype({"written": float, "remaining": float, "opposed": float})
    )
    if measured.empty:
        return "No writer has a value."
    lines = [
        f"{int(half_erased(measured).sum())} of {len(measured)} writers end with less than half of what they wrote. "
        f"{_ORDERS[_order(measured)]}, in pooled coefficients β:",
        "",
        "| writer | written | opposed | remaining | erased by reading | erasers |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in measured.sort_values(_order(measured), kind="stable").head(top).to_dict("records"):
        numbers = (_number(row[name]) for name in ("written", "opposed", "remaining", "erased_by_reading"))
        erasers = "" if pd.isna(row["erasers"]) else row["erasers"]
        lines.append(f"| {row['writer']} | {' | '.join(numbers)} | {erasers} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


_ORDERS = {"rank": "Most erased by heads that read them", "opposed": "Most opposed"}


def _order(writers: pd.DataFrame) -> str:
    """What writers are listed by: the rank where it is measured."""
    return "rank" if writers["rank"].notna().any() else "opposed"
