"""Which figures are exported, as which choices show them, without drawing them."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from erasure_sweep.dashboards.export.choices import ExportRequest, drawings
from erasure_sweep.dashboards.html.parts import Card, Control


def plot(height: int = 300) -> go.Figure:
    return go.Figure(layout={"height": height})


WRITERS = ["the 5 most erased", "embed", "L0H1 ← L1H0+L1H1", "L0H2"]


class TestWhichFigures:
    """Of cards, without drawing them."""

    @pytest.fixture
    def card(self) -> Card:
        """Writers by outputs; each figure is as high as its choice."""
        figures = {f"{writer}.{output}": plot(100 + 10 * writer + output) for writer in range(4) for output in range(2)}
        controls = [Control("Writer", WRITERS), Control("Outputs", ["as they are", "means removed"], chosen=1)]
        return Card("The ledger", "", figures, controls, key="ledger")

    @pytest.fixture
    def side_by_side(self) -> Card:
        models = ["a", "b", "c"]
        figures = {f"{output}.{model}": plot(100 + 10 * output + model) for output in range(2) for model in range(3)}
        panels = [Control("Model", models, chosen=0), Control("Model", models, chosen=2)]
        return Card("Maps", "", figures, [Control("Outputs", ["as they are", "means removed"])], panels, key="causal")

    def found(self, card: Card, **asked: object) -> dict[int, tuple[str, ...]]:
        """What was chosen, by the figures' heights."""
        return {one.figure.layout.height: one.chosen for one in drawings(card, ExportRequest(**asked))}

    def test_as_the_page_starts(self, card: Card, side_by_side: Card) -> None:
        assert self.found(card) == {101: ()}
        assert self.found(side_by_side) == {100: ("a",), 102: ("c",)}
        assert self.found(Card("", "", {"0": plot(77)}, key="one")) == {77: ()}

    def test_choices(self, card: Card, side_by_side: Card) -> None:
        assert self.found(card, choices=[("outputs", "As they are")]) == {100: ("as they are",)}
        both = [("Outputs", "as they are"), ("Writer", "L0H2")]
        assert self.found(card, choices=both) == {130: ("L0H2", "as they are")}
        assert self.found(side_by_side, choices=[("Outputs", "means removed"), ("Model", "b")]) == {
            111: ("means removed", "b")
        }

    def test_writers_stand_alone_or_with_their_erasers(self, card: Card) -> None:
        assert self.found(card, writers=["embed", "L0H1"]) == {111: ("embed",), 121: ("L0H1 ← L1H0+L1H1",)}

    def test_what_a_card_does_not_offer_it_does_not_show(self, card: Card, side_by_side: Card) -> None:
        assert self.found(card, writers=["L5H5"]) == {}
        assert self.found(card, choices=[("Outputs", "squared")]) == {}
        assert self.found(card, choices=[("Erasers", "heads")]) == {}
        assert self.found(side_by_side, writers=["embed"]) == {}
        rows = Card("", "", {"0": plot()}, [Control("Writers", ["all, in stream order"])], key="map")
        assert self.found(rows, writers=["all"]) == {}

    def test_panels_under_names_of_their_own(self) -> None:
        card = Card("", "", {str(at): plot(100 + at) for at in range(3)}, panels=["a", "b", "c"], key="depth")
        assert self.found(card) == {100: ("a",), 101: ("b",), 102: ("c",)}
        assert self.found(card, choices=[("Panel", "b")]) == {101: ("b",)}
