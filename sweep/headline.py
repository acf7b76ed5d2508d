"""A model's result in a few numbers and a few lines: what is put beside other models before anyone opens a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd


def model_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The few numbers of a model that can be held against another model's; what was not measured is left out.

    From the ledger, pooled coefficients β in ``erasure/`` and their centred twins in ``erasure_centred/``. Over all
    writers: ``opposed_median``, ``remaining_median``, ``most_opposed`` (the smallest) and ``writers_half_erased`` (the
    share that ends with less than half of what it wrote). Of two writers: ``embed_remaining``, ``pos_embed_remaining``.
    """
    if "writers" not in tables:
        return {}
    writers = tables["writers"].set_index("writer")
    found = {"erasure/writers_measured": float(writers["remaining"].notna().sum())}
    for group, suffix in (("erasure", ""), ("erasure_centred", "_centred")):
        ledger = writers[[f"written{suffix}", f"remaining{suffix}", f"opposed{suffix}"]].astype(float)
        ledger.columns = pd.Index(["written", "remaining", "opposed"])
        found |= {f"{group}/{name}": value for name, value in _ledger_metrics(ledger).items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


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
    measured = writers.dropna(subset=["written", "remaining", "opposed"]).astype(
        {"written": float, "remaining": float, "opposed": float}
    )
    if measured.empty:
        return "No writer has a value."
    lines = [
        f"{int(half_erased(measured).sum())} of {len(measured)} writers end with less than half of what they wrote. "
        "Most opposed, in pooled coefficients β:",
        "",
        "| writer | written | opposed | remaining |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in measured.nsmallest(top, "opposed").to_dict("records"):
        lines.append(f"| {row['writer']} | {row['written']:.2f} | {row['opposed']:.2f} | {row['remaining']:.2f} |")
    return "\n".join(lines)
