"""The answers at the top of a comparison: every number in them is one that the tables hold, and nothing is claimed beyond."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.comparison.answers.at_a_glance import answers
from erasure_sweep.dashboards.comparison.answers.findings import (
    arisen,
    halved,
    least_arriving_heads,
    most_erased_writers,
    trust_in,
)
from erasure_sweep.dashboards.comparison.training import trained
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_checkpoints, fake_model, model_tables, point, significant_pairs_table
from tests.support.fakes.views import comparison_view
from tests.support.fakes.written_pages import NASTY, broken


def sized(name: str, shares: dict[str, float], layers: int, width: int, **about: object) -> ModelTables:
    return point(name, shares, n_layers=layers, d_model=width, n_params=layers * width**2, **about)


def family() -> list[ModelTables]:
    """Erasing of heads grows with depth at both widths, and with width in two layers alone; embeddings confuse it."""
    return [
        sized("toy-1l", {"pos_embed": 0.9, "L0H0": np.nan}, 1, 64),
        sized("toy-3l", {"pos_embed": -0.2, "L0H0": 0.5, "L1H0": 0.3, "L1H1": -0.4}, 3, 64),
        sized("toy-2l", {"pos_embed": 0.7, "L0H0": 0.25, "MLP0": 0.6}, 2, 64),
        sized("toy-2l-w128", {"L0H0": 0.4, "L0H1": 0.004}, 2, 128),
        sized("toy-3l-w128", {"L0H0": 0.45, "L1H0": -0.1}, 3, 128),
    ]


def said(models: list[ModelTables], homes: dict[str, Home] | None = None) -> str:
    """The answers without their markup, all spaces alike."""
    bodies = answers(comparison_view(models, homes or {})).bodies
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", "", bodies["0"])) if bodies else ""


class TestErased:
    def test_the_most_erased_writer_and_the_heads_after_it(self) -> None:
        found = [(model, one.writer, one.share.value) for model, one in most_erased_writers(family())]
        assert found == [
            ("toy-1l", "pos_embed", 0.9),
            ("toy-3l", "L0H0", 0.5),
            ("toy-3l-w128", "L0H0", 0.45),
            ("toy-2l-w128", "L0H0", 0.4),
        ]
        # the most erased writer is not named twice where it is a head
        heads = most_erased_writers([point("m", {"L0H0": 0.6, "embed": 0.2, "L0H1": 0.3, "L0H2": 0.009})])
        assert [one.writer for _, one in heads] == ["L0H0", "L0H1"]

    def erased(self, **changes: object) -> ModelTables:
        """Heads take 0.6 of a writer out, 0.41 [0.4, 0.42] with means removed."""
        model = point("m", {"L0H0": 0.6})
        columns: dict[str, object] = {
            **{
                "erasers": "L1H0+L1H1+L2H0",
                "erased_centred": 0.41,
                "erased_centred_low": 0.4,
                "erased_centred_high": 0.42,
            },
            **{"rank": 1, "written": 9.0, "remaining": 9.0, "written_centred": 1.25, "remaining_centred": 0.84},
            **{"diluted": 0.125},
        }
        model.tables["writers"] = model.tables["writers"].assign(**(columns | changes))
        rows = {"L1H0": -0.1, "L1H1": -0.4, "L2H0": -0.2, "later": -0.9}
        model.tables["v_composition"] = pd.DataFrame({"writer": "L0H0", "eraser": list(rows), "beta": rows.values()})
        return model

    def test_what_is_said_of_one_is_with_means_removed(self) -> None:
        assert (
            "L0H0 of m: later heads take out 0.41 [0.40, 0.42] of it (0.60 with means kept); "
            "written → remaining: 1.25 → 0.84; diluted 0.12; erasers: L1H1, L2H0 and L1H0"
        ) in said([self.erased()])
        assert "(0.41 with means kept)" not in said([self.erased(erased=0.41)])
        unknown = {
            f"{name}_centred": np.nan for name in ("erased", "erased_low", "erased_high", "written", "remaining")
        }
        assert "take out 0.60 of it; written → remaining: 9.00 → 9.00 (0.60 taken out and 0.60 written back)" in said(
            [self.erased(**unknown)]
        )

    def test_a_constant_alone_that_is_taken_out_is_not_listed(self) -> None:
        assert most_erased_writers([self.erased(erased_centred=-0.24)]) == []

    def test_what_is_taken_out_and_written_back_has_both_numbers(self) -> None:
        text = said([self.erased(remaining_centred=1.5)])
        assert "written → remaining: 1.25 → 1.50 (0.41 taken out and 0.66 written back)" in text
        text = said([self.erased(remaining_centred=0.25)])
        assert "written → remaining: 1.25 → 0.25 (0.59 of it lost for other reasons)" in text
        assert "loses" not in text

    def test_how_many_models_have_a_head_half_gone(self) -> None:
        assert halved(family()) == (1, 4)
        assert "In 1 of 4 models some head has half of its output or more taken out." in said(family())

    def test_nothing_erased_and_nothing_measured_are_told_apart(self) -> None:
        assert "nothing clear of chance: the most is 0.00, of L0H0" in said(
            [point("m", {"L0H0": 0.002, "embed": -1.0})]
        )
        assert "nothing clear of chance: later heads add to each" in said([point("m", {"L0H0": -0.2, "embed": -1.0})])
        unmeasured = said([point("a", {"L0H0": np.nan}), model_tables({"name": "b"}, {})])
        assert "Erasure of heads was not measured in any of these models." in unmeasured
        assert "Erased: not measured." in unmeasured


def verified(
    name: str,
    words: dict[str, str | None],
    shares: dict[str, float] | None = None,
    ends: dict[str, tuple[float, float]] | None = None,
    unsettled: tuple[str, ...] = (),
) -> ModelTables:
    table = pd.DataFrame({"writer": list(words), "trust": list(words.values())})
    table["settled"] = pd.Series([writer not in unsettled for writer in words], dtype=object)
    table["share"] = [(shares or {}).get(writer, np.nan) for writer in words]
    for at, end in enumerate(("share_low", "share_high")):
        table[end] = [(ends or {}).get(writer, (np.nan, np.nan))[at] for writer in words]
    return model_tables({"name": name}, {"dla_trust": table})


class TestTrust:
    def test_components_are_counted_by_their_words(self) -> None:
        models = [
            verified("a", {"L0H0": "cancelled", "L0H1": "holds", "MLP0": "partly cancelled", "L1H0": None}),
            verified("b", {"L0H0": "reversed", "embed": "amplified", "L0H1": "unrelated", "L0H2": "constant"}),
            model_tables({"name": "c"}, {}),
        ]
        found = trust_in(models)
        assert (found.n, found.absent) == (7, ["c"])
        assert [(one.model, one.component) for one in found.misleading] == [("a", "L0H0"), ("b", "L0H0"), ("b", "L0H1")]
        assert [trust_in(models, heads=heads).n for heads in (True, False)] == [5, 2]
        text = said(models)
        misleading = (
            "3 cancelled, reversed or unrelated (L0H0 of a and b and L0H1 of b); 1 holds, 1 constant; 0 unsettled."
        )
        assert f"Heads: of 5, {misleading}" in text
        assert (
            "Embeddings and MLPs: of 2, 0 cancelled, reversed or unrelated; 1 amplified, 1 partly cancelled; 0 unsettled."
        ) in text
        assert text.index("Heads: of 5") < text.index("Embeddings and MLPs: of 2")
        assert "Not measured in 1 model." in text
        assert "which to trust was not measured" in said(family())

    def test_the_heads_of_which_least_arrives(self) -> None:
        words = dict.fromkeys(("L0H0", "L0H1", "MLP0", "L1H0"), "partly cancelled") | {"L1H1": "holds"}
        shares = {"L0H0": 0.5, "L0H1": 0.3, "MLP0": 0.1, "L1H0": np.nan, "L1H1": 0.8}
        found = least_arriving_heads([verified("a", words, shares, {"L0H1": (0.2, 0.4)})])
        assert [(one.model, one.component, one.arrives.value) for one in found] == [
            ("a", "L0H1", 0.3),
            ("a", "L0H0", 0.5),
        ]
        text = said([verified("a", words, shares, {"L0H1": (0.2, 0.4)})])
        assert (
            "Of heads whose DLA is settled as cancelled, reversed or partly cancelled least arrives of L0H1 of a "
            "(0.30 [0.20, 0.40]) and L0H0 of a (0.50)."
        ) in text

    def test_components_that_are_not_named_are_counted(self) -> None:
        words = {f"L0H{head}": "cancelled" for head in range(9)}
        text = said([verified(name, words) for name in ("a", "b")])
        assert "18 cancelled, reversed or unrelated (L0H0 of a and b, L0H1 of a and b," in text
        # of nine heads of two models seven are named
        assert "L0H6 of a and b and 4 more)" in text

    def test_words_that_are_not_settled_are_not_counted_but_said(self) -> None:
        words = dict.fromkeys(("L0H0", "L0H1"), "cancelled") | {"L0H2": "holds"}
        model = verified("a", words, {"L0H0": 0.1, "L0H1": 0.2}, unsettled=("L0H0", "L0H2"))
        found = trust_in([model])
        assert [one.component for one in found.unsettled] == ["L0H0", "L0H2"]
        text = said([model])
        assert (
            "Heads: of 3, 1 cancelled, reversed or unrelated (L0H1 of a); 2 unsettled (L0H0 of a and L0H2 of a)."
            in text
        )
        assert "least arrives of L0H1 of a (0.20)" in text
        # a word without intervals is not settled either
        model.tables["dla_trust"]["settled"] = None
        assert (trust_in([model]).settled, len(trust_in([model]).unsettled)) == ({}, 3)
        assert "of 3, 0 cancelled, reversed or unrelated; 3 unsettled" in said([model])


class TestTraining:
    def test_when_half_of_it_had_arisen(self) -> None:
        shares = {0: (-0.1, 0.0), 8: (0.3, 0.5), 64: (0.6, 0.4), 512: (0.8, 0.9)}
        models = [
            point("m" if at == 512 else f"m@{at}", {"embed": one, "L0H0": two}, training_tokens=at)
            for at, (two, one) in shares.items()
        ]
        (one,) = trained(models)
        assert arisen(one) == [("embed", 0.0, 0.9, 1, None), ("L0H0", -0.1, 0.8, 2, None)]
        text = said(models)
        assert "m, 4 points, 0 to 512 tokens:" in text
        assert "embed: 0.00 → 0.90, half of its final value first reached between 0 and 8 tokens" in text
        assert "L0H0: −0.10 → 0.80, half of its final value first reached between 8 and 64 tokens" in text
        assert "median over 1 heads: −0.10 → 0.80" in text
        assert "on the way" not in text
        assert "significant" not in text
        assert "Answers 1 and 2 use final weights." in answers(comparison_view(models)).caption
        assert "depth and width are the same in all" in text
        assert "m@8" not in text

    def test_more_on_the_way_and_significant_pairs(self) -> None:
        million = 1_000_000
        shares = {0: 0.1, 2 * million: 1.9, 4 * million + 160_000: 1.0}
        models = [point(f"m@{at}", {"L0H0": share}, training_tokens=at) for at, share in shares.items()]
        for model, pairs in zip(models, (0, 5, 12), strict=True):
            model.tables["v_composition"] = significant_pairs_table(pairs)
        text = said(models)
        assert "reached between 0 and 2 million tokens, more on the way (1.90 at 2 million)" in text
        assert "significant pairs of a writer and a later head: 0 → 12" in text
        # a tenth more is no overshoot to speak of
        models[1].tables["writers"]["erased"] = 1.05
        assert "on the way" not in said(models)

    def test_what_was_there_from_the_start_and_what_never_comes(self) -> None:
        models = [point("m@1", {"L0H0": 0.4}, training_tokens=1), point("m", {"L0H0": 0.5}, training_tokens=2)]
        assert "at least half of its final value at the first point already" in said(models)
        models = [point("m@1", {"L0H0": 0.4}, training_tokens=1), point("m", {"L0H0": -0.5}, training_tokens=2)]
        assert "no writer is erased after 2 tokens" in said(models)
        assert "Not measured: that takes two points" in said(family())

    def test_trust_through_training(self) -> None:
        words = {"m@1": "holds", "m": "cancelled"}
        models = [
            model_tables(
                one.about,
                one.tables | verified("", {"L0H0": words[one.about.name], "embed": "partly cancelled"}).tables,
            )
            for one in (point("m@1", {"L0H0": 0.1}, training_tokens=1), point("m", {"L0H0": 0.5}, training_tokens=2))
        ]
        assert "cancelled, reversed or unrelated: 0 → 1 (heads 0 → 1), unsettled: 0 → 0" in said(models)


class TestAnswers:
    def test_every_writer_leads_to_its_place_on_its_models_page(self) -> None:
        body = answers(comparison_view(family(), {"toy-3l": Home(page="toy-3l/index.html")})).bodies["0"]
        assert '<a href="toy-3l/index.html#writer=L0H0">L0H0</a> of toy-3l' in body
        assert re.findall('href="#(.*?)"', body) == ["size", "layers", "strongest", "causal"]

    def test_what_cannot_be_compared_is_said(self) -> None:
        assert "One model alone cannot say" in said(family()[1:2])
        assert "not compared, since no models in which a head was measured" in said(
            [family()[1], point("other", {"L0H0": 0.1})]
        )

    def test_hundreds_of_models_stay_short(self) -> None:
        models = [
            model_tables(
                sized(f"f{at}-{layers}l", {"L0H0": 0.1 * layers}, layers, 8).about,
                sized("", {"L0H0": 0.1 * layers}, layers, 8).tables | verified("", {"L0H0": "reversed"}).tables,
            )
            for at in range(100)
            for layers in (2, 3)
        ]
        checkpoints = [point(f"t{at}@{n}", {"L0H0": 0.5}, training_tokens=n) for at in range(50) for n in range(1, 5)]
        text = said([*models, *checkpoints])
        assert len(text) < 6000
        assert "neither rises nor falls clear of chance in any of 100 families, one training run each" in text
        assert "96 more comparisons" in text
        assert "47 more trainings are in the figure." in text

    def test_names_are_escaped(self) -> None:
        models = [sized(NASTY, {"L0H0": 0.5, NASTY: 0.9}, 2, 8), point(f"{NASTY}@1", {"L0H0": 0.1}, training_tokens=1)]
        models.append(verified(f"{NASTY}2", {NASTY: "cancelled"}))
        body = answers(comparison_view(models, {NASTY: Home(page='x"><img src=y>')})).bodies["0"]
        assert "<img" not in body
        assert "<script" not in body
        assert "&lt;img" in body

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_tables_that_hold_less(self, case: str) -> None:
        whole = fake_checkpoints("toy-2l", [0, 4096], n_layers=2, n_heads=2, n_tokens=12, d_model=16)
        less = [model_tables(model.about, broken(model)[case]) for model in whole]
        for models in (less, [whole[0], less[1]], less[:1]):
            assert "nan" not in said(models)

    def test_no_models_have_no_answers(self) -> None:
        assert answers(comparison_view([])).bodies == {}
