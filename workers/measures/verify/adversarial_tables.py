"""Rows of the tables ``adversarial``, ``adversarial_tokens`` and ``aligned_tokens``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.measures.statistics.quantile_sketch import QUANTILES
from erasure_sweep.workers.measures.verify.adversarial import INPUTS, ROLES
from erasure_sweep.workers.measures.verify.aligned_tokens import aligned_tokens
from erasure_sweep.workers.measures.verify.places import writers_of
from erasure_sweep.workers.measures.verify.token_texts import Words
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import Place, State, Target

Row = dict[str, Any]

COLUMNS = (
    *("writer", "source", "prompt", "position", "text", "top_id", "top", "second_id", "second", "logit_diff"),
    *("component", "role", "clean", "inputs", *QUANTILES, "change", "rank", "n"),
)

DECIMALS = 4
"""Changes that are alike up to these go by the attribution, the higher first: what is left is rounding."""


def aligned_rows(model: LeanModel, targets: Sequence[Target], states: Sequence[State], words: Words) -> list[Row]:
    """The tokens that each verified writer raises most, on average."""
    rows: list[Row] = []
    for writer, found in zip(writers_of(targets), aligned_tokens(model, states), strict=True):
        for rank, (token_id, logit) in enumerate(zip(found.token_ids, found.mean_direct_logit, strict=True), start=1):
            text = words.token(int(token_id))
            rows.append(
                {
                    "writer": writer,
                    "rank": rank,
                    "token_id": int(token_id),
                    "token": text,
                    "mean_direct_logit": float(logit),
                }
            )
    return rows


def adversarial_rows(places: Sequence[Place], states: Sequence[dict[str, State]], words: Words) -> list[Row]:
    """Every place, its writer and the strongest other head, with the last and with all inputs replaced.

    Places are ranked among those of one writer and source: first is the one whose attribution the last position's input
    changes least.

    Args:
        states: of all shards, each a block of donors.
    """
    patched = np.concatenate([state["patched"]["patched"] for state in states], axis=-1)
    clean = states[0]["places"]
    spread = _quantiles(patched)
    change = _change(clean["clean"][..., None], spread[..., list(QUANTILES).index("median")])
    ranks = _ranks(places, np.round(change[:, 0, 0], DECIMALS), clean["clean"][:, 0])
    donors = np.isfinite(patched).sum(axis=-1)
    rows: list[Row] = []
    for index, place in enumerate(places):
        about = _about(place, index, clean, words) | {"rank": ranks[index]}
        for role, name in enumerate(ROLES):
            label = str(clean["component"][index, role])
            tested = about | {"component": label, "role": name, "clean": float(clean["clean"][index, role])}
            for number, inputs in enumerate(INPUTS if label else ()):
                at = (index, role, number)
                found = dict(zip(QUANTILES, spread[at].tolist(), strict=True))
                rows.append(tested | {"inputs": inputs, **found, "change": float(change[at]), "n": int(donors[at])})
    return [{column: row[column] for column in COLUMNS} for row in rows]


def token_rows(places: Sequence[Place], states: Sequence[dict[str, State]], words: Words) -> list[Row]:
    """Every place's tokens, up to the place.

    Args:
        states: of all shards; one of them has the tokens.
    """
    found = next(state["tokens"] for state in states if "tokens" in state)
    texts = words.tokens(found["token_id"].tolist())
    columns = [found[name].tolist() for name in ("place", "position", "token_id", "dla", "net_dla")]
    return [
        {
            **{"writer": places[index].writer, "source": places[index].source, "prompt": places[index].prompt},
            **{"place": places[index].position, "position": position, "token_id": token_id, "token": text},
            **{"dla": dla, "net_dla": net_dla},
        }
        for index, position, token_id, dla, net_dla, text in zip(*columns, texts, strict=True)
    ]


def _quantiles(patched: Float[np.ndarray, "place role input donor"]) -> Float[np.ndarray, "place role input q"]:
    """Quantiles over the donors that count; NaN where none does."""
    found = np.full((*patched.shape[:-1], len(QUANTILES)), np.nan)
    for at in np.ndindex(patched.shape[:-1]):
        known = patched[at][np.isfinite(patched[at])]
        if len(known):
            found[at] = np.quantile(known, list(QUANTILES.values()))
    return found


def _about(place: Place, index: int, clean: State, words: Words) -> Row:
    first, second = (int(token) for token in clean["top"][index])
    return {
        "writer": place.writer,
        "source": place.source,
        "prompt": place.prompt,
        "position": place.position,
        "text": words.text(place),
        "top_id": first,
        "top": words.token(first),
        "second_id": second,
        "second": words.token(second),
        "logit_diff": float(clean["logit_diff"][index]),
    }


def _change(
    clean: Float[np.ndarray, "place role one"], median: Float[np.ndarray, "place role input"]
) -> Float[np.ndarray, "place role input"]:
    """How far the replaced input moves an attribution, relative to it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(median - clean) / np.abs(clean))


def _ranks(places: Sequence[Place], change: Float[np.ndarray, "place"], clean: Float[np.ndarray, "place"]) -> list[int]:
    ranks = [0] * len(places)
    for group in dict.fromkeys((place.writer, place.source) for place in places):
        members = [i for i, place in enumerate(places) if (place.writer, place.source) == group]
        order = sorted(members, key=lambda i: (np.isnan(change[i]), change[i], -clean[i], i))
        for rank, index in enumerate(order, start=1):
            ranks[index] = rank
    return ranks
