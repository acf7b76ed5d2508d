"""Labels and order of a model's components and residual-stream states.

The residual stream is a sum of **terms**: ``embed``, ``pos_embed`` where positions are vectors, then layer by layer the heads
``L0H0``…, the folded output bias ``b_O0`` where there is one and, unless the model is attention-only, ``MLP0``. Every term but
the biases is a possible **writer**. ``attn0`` is the sum of a layer's heads and its bias; a **state** is the sum of the terms
up to a place in the stream. All tables, figures and states of measures use this order and these names (TransformerLens' where
it has one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

_LABEL = re.compile(
    r"L(?P<head_layer>\d+)H(?P<head>\d+)|MLP(?P<mlp_layer>\d+)|b_O(?P<bias_layer>\d+)|attn(?P<attn_layer>\d+)"
)

_STATE = re.compile(r"resid_(?P<where>pre|mid|post)(?P<layer>\d+)")
_KIND_ORDER = {"embeddings": 0, "head": 1, "bias": 2, "attention": 3, "MLP": 4, "other": 5}
_LAST = 10**9


@lru_cache(maxsize=2**14)
def layer_of(label: str) -> int:
    """Layer of a component's label; −1 for ``embed`` and ``pos_embed``.

    Raises:
        ValueError: the label is none that this project gives.
    """
    if label in ("embed", "pos_embed"):
        return -1
    match = _LABEL.fullmatch(label)
    if match is None:
        raise ValueError(f"{label!r} is not a component: labels are embed, pos_embed, L0H2, MLP0, b_O0 or attn0")
    return int(next(layer for layer in match.group("head_layer", "mlp_layer", "bias_layer", "attn_layer") if layer))


@lru_cache(maxsize=2**16)
def kind_of(label: str) -> str:
    """Kind of a component's label: embeddings, head, bias, attention (a layer's sum), MLP, or other."""
    if label in ("embed", "pos_embed"):
        return "embeddings"
    if _LABEL.fullmatch(label) is None:
        return "other"
    prefixes = {"L": "head", "b_O": "bias", "attn": "attention", "MLP": "MLP"}
    return next(kind for prefix, kind in prefixes.items() if label.startswith(prefix))


def is_head(label: str) -> bool:
    """Whether the label is an attention head's."""
    return kind_of(label) == "head"


class StreamPlace(NamedTuple):
    """Where a component adds to the stream: sublayer 0 is attention, 1 the MLP; embeddings come before layer 0."""

    layer: int
    sublayer: int


def place_of(label: str) -> StreamPlace | None:
    """Where the component adds to the stream; None for a label that is no component's."""
    kind = kind_of(label)
    if kind == "other":
        return None
    return StreamPlace(-1, 0) if kind == "embeddings" else StreamPlace(layer_of(label), int(kind == "MLP"))


def state_place(state: str) -> StreamPlace | None:
    """The last sublayer that a state holds; None for a name that is no state's."""
    match = _STATE.fullmatch(state)
    if match is None:
        return None
    layer = int(match["layer"])
    before = StreamPlace(layer - 1, 1 if layer else 0)
    return {"pre": before, "mid": StreamPlace(layer, 0), "post": StreamPlace(layer, 1)}[match["where"]]


def component_order(labels: Iterable[str]) -> list[str]:
    """Labels once each, in the order in which components add to the stream; unknown ones last, as they came."""

    def key(item: tuple[int, str]) -> tuple[int, int, int, int]:
        position, label = item
        place, kind = place_of(label), kind_of(label)
        if place is None:
            return (_LAST, 0, 0, position)
        within = int(label.partition("H")[2]) if kind == "head" else int(label == "pos_embed")
        return (*place, _KIND_ORDER[kind], within)

    return [label for _, label in sorted(enumerate(dict.fromkeys(labels)), key=key)]


def state_order(states: Iterable[str]) -> list[str]:
    """States once each, in the order of the forward pass; unknown ones last, as they came."""
    known = {state: state_place(state) for state in dict.fromkeys(states)}
    return sorted(known, key=lambda state: known[state] or StreamPlace(_LAST, 0))


@dataclass(frozen=True)
class Layout:
    """Order of components and states for one architecture."""

    n_layers: int
    n_heads: int
    attn_only: bool = False
    pos_embed: bool = True
    """Whether positions are vectors of the stream."""
    attn_bias: bool = True
    """Whether attention layers write a constant beside their heads."""
    parallel: bool = False
    """Whether attention and MLP of a block read the same stream: then there is no state between them."""

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """What adds up to the final residual stream, in the order in which it is added."""
        labels = list(self.embeddings)
        for layer in range(self.n_layers):
            labels += [f"L{layer}H{head}" for head in range(self.n_heads)]
            labels += [f"b_O{layer}"] if self.attn_bias else []
            labels += [] if self.attn_only else [f"MLP{layer}"]
        return tuple(labels)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The terms before the first layer."""
        return ("embed", "pos_embed") if self.pos_embed else ("embed",)

    @property
    def has_middle(self) -> bool:
        """Whether there is a state between the attention and the MLP of a block."""
        return not self.attn_only and not self.parallel

    @cached_property
    def term_index(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.terms)}

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Terms that can be writers: all but the attention biases."""
        return tuple(label for label in self.terms if not label.startswith("b_O"))

    @cached_property
    def heads(self) -> tuple[str, ...]:
        return tuple(label for label in self.terms if label.startswith("L"))

    @cached_property
    def components(self) -> tuple[str, ...]:
        """Rows of the component projection: the terms, and each layer's ``attn{l}`` behind what it sums."""
        ends = {attention.stop: f"attn{layer}" for layer, attention in enumerate(self.attention_slices)}
        labels: list[str] = []
        for index, label in enumerate(self.terms, start=1):
            labels += [label, ends[index]] if index in ends else [label]
        return tuple(labels)

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Places in the residual stream; models without a place between attention and MLP have no ``resid_mid``."""
        labels = ["resid_pre0"]
        for layer in range(self.n_layers):
            labels += [f"resid_mid{layer}", f"resid_post{layer}"] if self.has_middle else [f"resid_post{layer}"]
        return tuple(labels)

    @cached_property
    def state_ends(self) -> tuple[int, ...]:
        """For each state, how many of the leading terms it sums."""
        ends = [len(self.embeddings)]
        for attention in self.attention_slices:
            after_layer = attention.stop + (not self.attn_only)
            ends += [attention.stop, after_layer] if self.has_middle else [after_layer]
        return tuple(ends)

    @cached_property
    def attention_slices(self) -> tuple[slice, ...]:
        """For each layer, the terms that ``attn{l}`` sums: its heads, and its bias if it has one."""
        starts = [self.term_index[f"L{layer}H0"] for layer in range(self.n_layers)]
        return tuple(slice(start, start + self.n_heads + self.attn_bias) for start in starts)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """What is projected onto a writer: the terms, each layer's ``attn{l}``, the states."""
        return self.terms + tuple(f"attn{layer}" for layer in range(self.n_layers)) + self.states

    @cached_property
    def row_index(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.rows)}

    def later_terms(self, writer: str) -> range:
        """Indices of the terms that are added after the writer's own sublayer."""
        return range(self.state_ends[self.written_state(writer)], len(self.terms))

    def written_state(self, writer: str) -> int:
        """Index of the state right after the writer's own sublayer, the first that holds its output."""
        position = self.term_index[writer]
        return next(index for index, end in enumerate(self.state_ends) if end > position)
