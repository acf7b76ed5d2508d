"""Kinds, places and order of components and states."""

from __future__ import annotations

import pytest

from erasure_sweep.workers.labels import Layout, component_order, kind_of, place_of, state_order

ZERO = "L1H3"


@pytest.mark.parametrize("shape", [(4, 8, False), (12, 12, False), (2, 3, True)])
def test_orders_are_those_of_the_layout_whatever_the_order_of_rows(shape: tuple[int, int, bool]) -> None:
    layout = Layout(*shape)
    assert component_order(sorted(layout.components)) == list(layout.components)
    assert state_order(sorted(layout.states)) == list(layout.states)


@pytest.mark.parametrize(
    ("label", "kind", "place"),
    [
        ("embed", "embeddings", (-1, 0)),
        ("pos_embed", "embeddings", (-1, 0)),
        ("L10H11", "head", (10, 0)),
        ("b_O3", "bias", (3, 0)),
        ("attn3", "attention", (3, 0)),
        ("MLP2", "MLP", (2, 1)),
        ("<b>L0H2", "other", None),
        ("Later", "other", None),
    ],
)
def test_kinds_and_places(label: str, kind: str, place: tuple[int, int] | None) -> None:
    assert kind_of(label) == kind
    assert place_of(label) == place
