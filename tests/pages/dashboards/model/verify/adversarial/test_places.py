"""Prompts on which a writer's DLA is high whatever it reads."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erasure_sweep.dashboards.model.verify.adversarial.places import adversarial_places, plot_places
from erasure_sweep.dashboards.model.verify.adversarial.prompts import adversarial_table
from erasure_sweep.dashboards.model.verify.prompt_words import by_construction, tail_words, token_words
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import model_tables
from tests.support.fakes.verified_models import only


class TestAdversarial:
    def test_found_places_hardest_first_with_the_other_head(self, model: ModelTables) -> None:
        table = model.tables["adversarial"]
        writer = str(table["writer"].iloc[0])
        shown = adversarial_places(model, writer, "found", "last")
        assert shown is not None
        assert [prompt.rank for prompt in shown.prompts] == [1, 2, 3, 4, 5, 6]
        keys = {"writer": writer, "half": "found", "inputs": "last", "prompt": shown.prompts[0].prompt}
        own, other = only(table, **keys, role="writer"), only(table, **keys, role="other")
        assert (shown.own.clean[0], shown.own.median[0]) == (own["clean"], own["median"])
        assert (shown.own.total[0], shown.prompts[0].fools) == (own["total"], own["fools"])
        assert (shown.other.components[0], shown.other.q87_5[0]) == (other["component"], other["q87_5"])
        # other inputs have no ranks of their own
        others = adversarial_places(model, writer, "found", "all", most=2)
        assert others is not None
        assert others.left_out == 4

    def test_given_places_as_they_were_given(self, model: ModelTables) -> None:
        writer = str(model.tables["adversarial"]["writer"].iloc[0])
        shown = adversarial_places(model, writer, "given", "all")
        assert shown is not None
        assert [prompt.prompt for prompt in shown.prompts] == [0, 1, 2, 3]
        figure = plot_places(shown)
        assert [trace.yaxis for trace in figure.data] == 3 * ["y2"] + 3 * ["y"]
        np.testing.assert_allclose(figure.data[1].y, shown.own.total, rtol=1e-6)
        np.testing.assert_allclose(figure.data[2].y, shown.own.median, rtol=1e-6)
        np.testing.assert_allclose(figure.data[2].error_y.array, shown.own.q87_5 - shown.own.median, rtol=1e-4)
        assert list(figure.data[3].text) == shown.other.components

    def test_only_places_that_count_say_how_often_dla_is_fooled(self, model: ModelTables) -> None:
        table = model.tables["adversarial"]
        writer = str(table["writer"].iloc[0])
        for source, rows in (("shown", table[table["half"] == "shown"]), ("given", table[table["source"] == "given"])):
            rows = rows[(rows["writer"] == writer) & (rows["role"] == "writer") & (rows["inputs"] == "last")]
            shown = adversarial_places(model, writer, source, "last")
            assert shown is not None
            sentence = plot_places(shown).layout.meta["sentence"]
            assert sentence.startswith(f"{rows['fools'].sum()} of {len(rows)} places fool")
            fooling = [one.prompt for one in shown.prompts if one.fools]
            assert sorted(fooling) == sorted(rows[rows["fools"].astype(bool)]["prompt"])
            ticks = plot_places(shown).layout.xaxis.ticktext
            assert [int(tick.partition(":")[0]) for tick in ticks if "fools DLA" in tick] == fooling
        found = adversarial_places(model, writer, "found", "last")
        assert found is not None
        assert "does not say how often DLA is fooled" in plot_places(found).layout.meta["sentence"]

    def test_tokens_and_texts_are_readable_and_escaped(self, model: ModelTables, block: ModelTables) -> None:
        assert token_words("\n\tif", 5) == "↵⇥if"
        assert token_words(None, 17.0) == "#17"
        assert tail_words("a" * 300) == "… " + "a" * 240
        assert tail_words(None) == ""
        table = adversarial_table(ModelView(model))
        assert len(table.rows) == len(model.tables["adversarial"]) // 2
        texts = [row[4] for row in table.rows]
        assert not any("<i>" in shown for shown in texts)
        assert any("&lt;i&gt;" in shown for shown in texts)
        assert {row[4] for row in adversarial_table(ModelView(block)).rows} == {None}

    def test_the_table_has_the_order_of_the_figure(self, model: ModelTables) -> None:
        shuffled = model.tables["adversarial"].sample(frac=1, random_state=0)
        given = shuffled["source"] == "given"
        model = model_tables({}, {"adversarial": pd.concat([shuffled[~given], shuffled[given]])})
        writers = dict.fromkeys(model.tables["adversarial"]["writer"])
        rows = [(row[0], row[2]) for row in adversarial_table(ModelView(model)).rows if row[1] == "writer"]
        expected = []
        for writer in writers:
            for source in ("given", "shown", "found"):
                shown = adversarial_places(model, writer, source, "last")
                assert shown is not None
                expected += [(writer, f"{source} {prompt.prompt}") for prompt in shown.prompts]
        of_corpus = [row for row in rows if not row[1].startswith("given")]
        assert of_corpus == [row for row in expected if not row[1].startswith("given")]
        assert [row[1][:5] for row in rows] == [row[1][:5] for row in expected]

    def test_embeddings_say_what_replacing_inputs_can_show(self) -> None:
        assert by_construction("pos_embed").endswith("0\u00a0% by construction.")
        assert "nothing but the token" in by_construction("embed")
        assert by_construction("L0H0") == by_construction("MLP0") == ""

    def test_readable_texts_reach_the_figure_escaped(self, model: ModelTables) -> None:
        writer = str(model.tables["adversarial"]["writer"].iloc[0])
        for source in ("given", "found"):
            shown = adversarial_places(model, writer, source, "last")
            assert shown is not None
            assert "<i>" not in plot_places(shown).to_json()
