"""Whose direct logit attribution can be trusted."""

from __future__ import annotations

from erasure_sweep.workers.tables.columns import WRITER, Table, count, flag, number, text, with_interval

_WORDS = (
    "the first that matches: `constant` (`constant` above 0.99: an offset that no token changes), `cancelled` (`size` below "
    "0.25, or below 0.5 with r² below 0.5), `unrelated` (r² below 0.5: much happens, and DLA does not say what), `reversed` "
    "(`share` below 0), `partly cancelled` (below 0.75), `holds` (up to 1.33), `amplified`; the thresholds are keys of the "
    "config and stand in the table's metadata; null where its DLA is zero"
)
_ROTATED = "where it is replaced by another prompt's output, rotated along the positions by one offset"

TABLES = (
    Table(
        "dla_trust",
        "Every writer: its output is replaced by its mean over the scan, everything behind it computed anew, and what happens "
        "to the difference of the logits of the top two tokens (e) is set against what DLA says should happen, d = (output − "
        "mean)·g. Sums are over tokens.",
        ("verify",),
        ("writer",),
        (
            WRITER,
            text("trust", _WORDS, nullable=True),
            flag(
                "settled",
                "whether the word is the same all over the intervals, and where rotated outputs replace the writer's; null "
                "where there is no interval",
                nullable=True,
            ),
            *with_interval(
                "share", "Σ d·e / Σ d², the share of its DLA that arrives at the logits; 1 where nothing answers"
            ),
            *with_interval("r", "Σ d·e / √(Σ d² Σ e²), how well DLA says what happens token by token", "correlation"),
            *with_interval("size", "√(Σ e² / Σ d²), how much happens beside what DLA says"),
            *with_interval("concordance", "2 Σ d·e / (Σ d² + Σ e²), 1 only where DLA is the effect token by token"),
            *with_interval("constant", "1 − Σ d² / Σ DLA², the share of its DLA's power that its mean has as well"),
            number("dla_mean_abs", "mean size of its DLA", "logit"),
            number("effect_mean_abs", "mean size of the effect", "logit"),
            count("n", "measured tokens", "tokens"),
            number("rotated_share", f"`share` {_ROTATED}"),
            number("rotated_r", f"`r` {_ROTATED}", "correlation"),
            number("rotated_size", f"`size` {_ROTATED}"),
            text("rotated_trust", f"`trust` {_ROTATED}; null where that was not measured", nullable=True),
            count("n_rotated", "tokens at which it was replaced so", "tokens"),
        ),
    ),
    Table(
        "dla_mediation",
        "Every writer and everything behind it: who takes its DLA back, or adds to it, where its mean is in its place. "
        "The shares of a writer add up to `share` of `dla_trust`, less 1.",
        ("verify",),
        ("writer", "mediator"),
        (
            WRITER,
            text("mediator", "a later head or MLP, or `final_norm`, the scale of the final LayerNorm"),
            *with_interval(
                "share",
                "Σ d·m / Σ d², m the change of the mediator's own DLA; −1 where it takes back all that DLA says of the writer",
            ),
        ),
    ),
)
