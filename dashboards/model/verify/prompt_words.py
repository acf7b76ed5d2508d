"""Tokens and texts of prompts for reading: any text, of any direction, or the number of a token without one."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

SOURCES = {
    "given": "given for this run",
    "shown": "in the corpus, those that count",
    "found": "in the corpus, where high DLA was looked for",
}
INPUTS = {"last": "at the last position", "all": "at all positions"}
TAIL = 240
_SPACES = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "↵"})


def token_words(token: str | None, token_id: float) -> str:
    """A token for reading, line ends and tabs made visible; its number where the model has no tokenizer."""
    if token is None:
        return f"#{token_id:.0f}" if np.isfinite(token_id) else "?"
    return token.translate(_SPACES)


def tail_words(shown: str | None, most: int = TAIL) -> str:
    """The end of a prompt's text in one line; nothing where the model has no tokenizer."""
    flat = (shown or "").translate(_SPACES)
    return flat if len(flat) <= most else f"… {flat[-most:]}"


def by_construction(writer: str) -> str:
    """What replacing inputs can show of an embedding, which reads no other position; nothing of any other writer."""
    reasons = {
        "pos_embed": "has no input from the text: at a position it is the same in every prompt, 0\u00a0% by construction",
        "embed": "reads nothing but the token at the position itself: replaced there or everywhere is the same",
    }
    return f" {writer} {reasons[writer]}." if writer in reasons else ""


def code(shown: str) -> Markup:
    """A text or token as it stands, its spaces kept."""
    return Markup("<code>{}</code>").format(shown)
