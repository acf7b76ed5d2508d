"""Cards find their pages by themselves: which there are, in which order they stand, and what is refused."""

from __future__ import annotations

import pytest

from erasure_sweep.dashboards.cards import Page, card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.parts import Card, Part
from erasure_sweep.dashboards.model.view import MODEL, ModelView
from tests.support.fakes.tables import fake_checkpoints, fake_model


def made(title: str, log: list[str] | None = None) -> Part:
    if log is not None:
        log.append(title)
    return Card(title, "", {})


@pytest.fixture
def page() -> Page[str]:
    """A page of a package without cards of its own."""
    return Page("erasure_sweep.dashboards.plots", ("first", "second"))


class TestPage:
    def test_sections_then_orders(self, page: Page[str]) -> None:
        card(page, "d", "second", order=1)(lambda view: made("d"))
        card(page, "c", "first", order=20)(lambda view: made("c"))
        card(page, "b", "first", order=10)(lambda view: made("b"))
        card(page, "a", "first", order=20)(lambda view: made("a"))
        parts = page.parts("anything")
        assert [(part.key, part.group) for part in parts] == [*((key, "first") for key in "bac"), ("d", "second")]

    def test_only_what_is_asked_for_is_made(self, page: Page[str]) -> None:
        log: list[str] = []
        for key in "abc":
            card(page, key, "first")(lambda view, key=key: made(key, log))
        assert [part.key for part in page.parts("anything", {"b"})] == ["b"] == log

    def test_a_view_decides_where_and_whether(self, page: Page[str]) -> None:
        card(page, "a", lambda view: (view, 5))(lambda view: made("a"))
        card(page, "b", "first", order=9, when=lambda view: view == "first")(lambda view: made("b"))
        assert [(part.key, part.group) for part in page.parts("first")] == [("a", "first"), ("b", "first")]
        assert [(part.key, part.group) for part in page.parts("second")] == [("a", "second")]

    def test_two_cards_of_a_key_are_refused(self, page: Page[str]) -> None:
        card(page, "a", "first")(lambda view: made("a"))
        with pytest.raises(ValueError, match="two cards 'a'"):
            card(page, "a", "second")(lambda view: made("a"))

    def test_a_section_that_the_page_lacks_is_refused(self, page: Page[str]) -> None:
        with pytest.raises(ValueError, match="no section 'third'"):
            card(page, "a", "third")(lambda view: made("a"))


class TestPages:
    def test_what_a_models_page_shows_in_which_order(self) -> None:
        view = ModelView(fake_model("m", 2, 2, n_tokens=24, reading=True, verify=True))
        entries = [entry for entry in MODEL.entries() if entry.when(view)]
        ordered = sorted(entries, key=lambda entry: (MODEL.sections.index(entry.place(view)[0]), entry.place(view)[1]))
        assert [entry.key for entry in ordered] == [
            *("trust", "erased", "causal", "presence", "ledger"),
            *("patched", "dla", "layers", "onto"),
            *("patched-states", "eraser-group", "dla-points", "dla-effects", "adversarial", "adversarial-tokens"),
            *("adversarial-prompts", "position-profile", "mlp-erasers", "later-use", "patched-loss", "carries"),
            *("ablation-loss", "aligned-tokens", "mediation", "heatmaps", "writers", "broad-erasers"),
        ]
        assert [entry.key for entry in ordered if entry.alone] == ["causal", "presence"]

    def test_no_two_cards_share_a_place(self) -> None:
        model = fake_model("m", 2, 2, n_tokens=24, reading=True, verify=True)
        view = ModelView(model)
        places = [entry.place(view) for entry in MODEL.entries() if entry.when(view)]
        assert len(set(places)) == len(places)
        for models in ([model], fake_checkpoints("c", (0, 512), n_layers=2, n_heads=2, n_tokens=24)):
            compared = ComparisonView.of(models, {}, None)
            places = [entry.place(compared) for entry in COMPARISON.entries()]
            assert len(set(places)) == len(places)
