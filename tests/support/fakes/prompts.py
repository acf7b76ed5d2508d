"""Rows of verify that are drawn rather than computed: they need a real model's tokens, prompts and losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tests.support.fakes.terms import QUANTILES, FakeTarget, quantile_columns

TOKENS = (
    " the",
    " of",
    "\n",
    " <b>bold</b>",
    " Paris",
    "\tif",
    "ing",
    " —",
    ' "quoted"',
    " 東京",
    ")",
    "<|endoftext|>",
)
PROMPT_TOKENS = (*TOKENS, " שלום", "🙂", "\u202eabc", "<script>", "&amp;", "")
"""What a prompt can hold: markup, text from right to left, and tokens that have no text of their own."""


def aligned_rows(writer: str, rng: np.random.Generator, tokenizer: bool) -> Iterator[dict[str, Any]]:
    """Thirty tokens, the highest logit first."""
    logits = -np.sort(-rng.exponential(size=30))
    for rank, (logit, token_id) in enumerate(zip(logits, rng.integers(0, 50257, size=30), strict=True), start=1):
        token = TOKENS[int(token_id) % len(TOKENS)] if tokenizer else None
        yield {"writer": writer, "rank": rank, "token_id": int(token_id), "token": token, "mean_direct_logit": logit}


def adversarial_rows(writer: str, other: str, rng: np.random.Generator, tokenizer: bool) -> Iterator[dict[str, Any]]:
    """Four given prompts and six of either half; ``other`` is the strongest other head at all of them."""
    counts = (("given", 4), ("found", 6), ("shown", 6))
    changes = {place: rng.uniform(0, 0.5) for source, n in counts for place in _places(source, n)}
    order = sorted(changes, key=lambda place: changes[place])
    for (source, prompt), change in changes.items():
        ids = rng.choice(50257, size=2, replace=False)
        words = [TOKENS[int(one) % len(TOKENS)] if tokenizer else None for one in ids]
        place = {
            **{"writer": writer, "source": "given" if source == "given" else "found"},
            **{"half": None if source == "given" else source, "prompt": prompt, "position": 7 + prompt},
            "text": _text(source, prompt) if tokenizer else None,
            **{"top_id": int(ids[0]), "top": words[0], "second_id": int(ids[1]), "second": words[1]},
            "logit_diff": float(rng.uniform(0.1, 2)),
        }
        for role, component, size, moved in (
            ("writer", writer, rng.uniform(0.5, 1.5), change),
            ("other", other, rng.uniform(0.3, 1.5), rng.uniform(0.4, 1.2)),
        ):
            for inputs in ("last", "all"):
                share = moved if inputs == "last" else min(1.5, 1.6 * moved)
                ranks = [key for key in order if key[0] == source]
                rank = ranks.index((source, prompt)) + 1 if (role, inputs) == ("writer", "last") else np.nan
                quantiles = size * (1 - share) + 0.1 * size * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
                arrives = 1.0 - 2.0 * moved
                yield {
                    **place,
                    **{"component": component, "role": role, "clean": size, "direct": size, "total": arrives * size},
                    **{"total_share": arrives, "fools": bool(size >= 0.5 and arrives < 0.25), "inputs": inputs},
                    **dict(zip(QUANTILES, quantiles, strict=True)),
                    **{"change": share, "rank": rank, "n": 300},
                }


def token_rows(places: pd.DataFrame, rng: np.random.Generator, tokenizer: bool) -> pd.DataFrame:
    """The tokens of every place of the table ``adversarial``; the last has the DLA that the writer was found to have there."""
    tested = places[(places["role"] == "writer") & (places["inputs"] == "last")]
    rows = []
    for place in tested.itertuples():
        ids = rng.integers(0, 50257, size=place.position + 1)
        dla = np.append(rng.normal(size=place.position), place.clean)
        texts = [PROMPT_TOKENS[int(one) % len(PROMPT_TOKENS)] if tokenizer else None for one in ids]
        keys = {"writer": place.writer, "source": place.source, "half": place.half}
        keys |= {"prompt": place.prompt, "place": place.position}
        values = {"token_id": ids, "token": texts, "dla": dla, "net_dla": 0.3 * dla, "total": 0.4 * dla}
        rows.append(pd.DataFrame({**keys, "position": np.arange(len(ids)), **values}))
    return pd.concat(rows, ignore_index=True)


def _places(source: str, n: int) -> list[tuple[str, int]]:
    first = 6 if source == "shown" else 0
    return [(source, first + prompt) for prompt in range(n)]


def _text(source: str, prompt: int) -> str:
    if source == "given":
        return f"<|endoftext|>It's in the cupboard, either on the top or the {'very ' * prompt}bottom"
    return f'<|endoftext|>def f{prompt}(a, b):\n\treturn "<i>{"a & b " * 12 * prompt}</i>"'


def loss_rows(writer: str, rng: np.random.Generator, has_interval: bool) -> Iterator[dict[str, Any]]:
    """Both ways of resampling; another position costs more."""
    for ablation, cost in (("equal_position", 0.02), ("random_position", 0.11)):
        yield {"writer": writer, "ablation": ablation, **_losses(cost, rng, has_interval)}


def patched_loss_rows(target: FakeTarget, rng: np.random.Generator, has_interval: bool) -> Iterator[dict[str, Any]]:
    """Both patches; that of whole layers costs more."""
    for patch, cost in (("group", 0.04), ("layer", 0.09)):
        yield {**target.keys, "patch": patch, **_losses(cost, rng, has_interval)}


def _losses(cost: float, rng: np.random.Generator, has_interval: bool) -> dict[str, Any]:
    increases = rng.normal(cost, 0.2, size=64)
    low, high = (cost - 0.03, cost + 0.03) if has_interval else (np.nan, np.nan)
    return {
        **{"clean_loss": 3.4, "increase_mean": increases.mean(), "increase_mean_low": low, "increase_mean_high": high},
        **quantile_columns(increases),
        "n": len(increases),
    }
