"""The comparison of a model's checkpoints as a page: their order, their cards, what was read, and what may be missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.model_names import display_names, final_models, representatives
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_checkpoints, fake_model, model_tables
from tests.support.fakes.written_pages import NASTY, broken, comparison, embedded, model_page, sections, without_plotly


class TestComparingCheckpoints:
    @pytest.fixture(scope="class")
    def checkpoints(self) -> list[ModelTables]:
        return fake_checkpoints("toy-3l", [0, 65536, 16777216], n_layers=3, n_heads=2, n_tokens=24, d_model=24, seed=1)

    def test_training_comes_first_and_models_stand_in_its_order(
        self, checkpoints: list[ModelTables], tmp_path: Path
    ) -> None:
        page = comparison([checkpoints[2], checkpoints[0], checkpoints[1]], tmp_path)
        assert sections(page) == [
            *("answers", "training", "size", "models", "layers", "erased", "strongest", "causal", "trust", "dla"),
            *("opposed", "depth", "removed", "significant", "protocol"),
        ]
        assert "<h1>Erasure across 1 model and 2 checkpoints</h1>" in page
        names = ["toy-3l@0", "toy-3l@65536", "toy-3l"]
        assert re.findall(r'<th scope="row">(.*?)</th>', page)[:3] == names
        for card in ("erased", "opposed"):
            assert embedded(page, card)["0"]["layout"]["xaxis"]["ticktext"] == names
        assert re.findall(r"<h3>(.*?)</h3>", page)[3:] == names
        # the untrained model stands beside the trained one
        assert re.findall(r'data-control="causal" data-panel.*?selected>(.*?)<', page) == [names[0], names[2]]

    def test_cards_hold_every_choice(self, checkpoints: list[ModelTables], tmp_path: Path) -> None:
        page = comparison(checkpoints, tmp_path)
        assert sorted(embedded(page, "training")) == ["0", "1"]
        axis = embedded(page, "training")["0"]["layout"]["xaxis"]
        assert axis["ticktext"][0] == "0"
        choices = [f"{against}.{of}" for against in "0123" for of in "01"]
        assert sorted(embedded(page, "size")) == choices
        # against depth there is one model; through training there are three
        points = [
            len(trace["x"])
            for choice in choices
            for trace in embedded(page, "size")[choice]["data"]
            if trace.get("meta") == {"series": "median over heads"}
        ]
        assert points == [1, 1, 1, 1, 1, 1, 3, 3]
        assert re.search(r'data-control="size".*?<option value="3" selected>training tokens', page)
        assert [len(trace["x"]) for trace in embedded(page, "removed")["0"]["data"]] == [1]

    def test_says_what_was_read(self, checkpoints: list[ModelTables], tmp_path: Path) -> None:
        page = comparison(checkpoints, tmp_path)
        assert "All models read the same text, stdlib, each through its own tokenizer." in page
        assert "Mind when comparing" not in page
        about = {**checkpoints[2].about.to_json(), "corpus_name": "gelu-mix"}
        mixed = [*checkpoints[:2], model_tables(about, checkpoints[2].tables)]
        page = comparison(mixed, tmp_path, config={"corpus": "own", "prompts": 8})
        assert "Each model read its own training mix (stdlib: toy-3l@0, toy-3l@65536; gelu-mix: toy-3l)." in page
        assert "differences between them may come from the text" in page.partition("Mind when comparing")[2]

    def test_a_checkpoints_own_page_says_how_far_it_was_trained(
        self, checkpoints: list[ModelTables], tmp_path: Path
    ) -> None:
        assert "parameters, before any training." in model_page(checkpoints[0], tmp_path)
        assert "parameters, trained on 65,536 tokens in 16 steps." in model_page(checkpoints[1], tmp_path)

    @pytest.mark.nightly
    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_missing_tables_of_the_last_point(self, checkpoints: list[ModelTables], case: str, tmp_path: Path) -> None:
        last = model_tables(checkpoints[2].about, broken(checkpoints[2])[case])
        page = comparison([*checkpoints[:2], last], tmp_path)
        sentence = embedded(page, "training")["0"]["layout"]["meta"]["sentence"]
        measured = case in ("only writers", "all null", "infinite")
        assert f"→ {'16.8 million' if measured else '65,536'} tokens" in sentence or "No writer is erased" in sentence
        assert ("another model stands at the same point: toy-3l." in page) != measured

    def test_names_are_escaped(self, checkpoints: list[ModelTables], tmp_path: Path) -> None:
        abouts = [
            {**m.about.to_json(), "name": f"{NASTY}@{m.about.training_tokens}", "base": NASTY} for m in checkpoints
        ]
        abouts = [{**about, "corpus_name": NASTY} for about in abouts]
        tables = [{name: table.replace({"L0H1": NASTY}) for name, table in m.tables.items()} for m in checkpoints]
        models = [model_tables(about, table) for about, table in zip(abouts, tables, strict=True)]
        page = without_plotly(comparison(models, tmp_path))
        assert "<img" not in page
        assert "<script>alert" not in page
        # no point is the final weights of NASTY, so only training tokens tell sizes apart
        assert sorted(embedded(page, "size")) == ["0.0", "0.1"]
        assert "<img" not in "".join(trace["name"] for trace in embedded(page, "training")["0"]["data"])


class TestCheckpointsBesideModels:
    """Figures of whole models show final weights alone, training and the tables all of it."""

    @pytest.fixture(scope="class")
    def models(self) -> list[ModelTables]:
        sizes = {"n_heads": 2, "n_tokens": 16, "d_model": 16}
        trained = fake_checkpoints("toy-2l", [0, 4096, 65536], n_layers=2, **sizes)
        unfinished = fake_checkpoints("half-2l", [0, 4096, 65536], n_layers=2, seed=2, **sizes)[:2]
        return [fake_model("toy-3l", 3, seed=1, verify=True, **sizes), *trained, *unfinished]

    def test_what_stands_for_each_model(self, models: list[ModelTables]) -> None:
        names = ["toy-3l", "toy-2l", "half-2l@4096"]
        assert display_names(representatives(models)) == display_names(final_models(models)) == names
        training = models[1:4]
        assert representatives(training) == training
        assert display_names(final_models(training)) == ["toy-2l"]
        assert representatives(models[:1]) == final_models(models[:1]) == models[:1]

    def test_figures_show_it_and_captions_say_so(self, models: list[ModelTables]) -> None:
        parts = {part.key: part for part in COMPARISON.parts(ComparisonView.of(models, {}, None))}
        assert list(parts)[:4] == ["answers", "training", "size", "models"]
        final = ["toy-3l", "toy-2l", "half-2l@4096"]
        for key in ("erased", "opposed", "dla"):
            assert list(parts[key].figures["0"].layout.xaxis.ticktext) == final
        assert [trace.name for trace in parts["layers"].figures["0.0.0.0"].data] == final
        assert list(parts["depth"].panels) == final
        assert {row[1] for row in parts["strongest"].rows} == set(final)
        noted = [key for key, part in parts.items() if "Final weights only" in part.caption]
        assert noted == ["layers", "erased", "strongest", "trust", "dla", "opposed", "depth", "removed", "significant"]
        assert "(half-2l@4096 for lack of them)" in parts["layers"].caption
        for key in ("models", "protocol"):
            assert len(parts[key].rows) == 6
        medians = [
            trace for trace in parts["size"].figures["3.0"].data if trace.meta == {"series": "median over heads"}
        ]
        assert sum(len(trace.x) for trace in medians) == 5

    @pytest.mark.nightly
    def test_training_stands_behind_size_where_most_are_models(self, models: list[ModelTables]) -> None:
        others = [fake_model(f"other-{at}", 2, 2, seed=at, n_tokens=16, d_model=16, reading=True) for at in range(4)]
        keys = [part.key for part in COMPARISON.parts(ComparisonView.of([*models[:3], *others], {}, None))]
        assert keys[:4] == ["answers", "size", "training", "models"]
        # where there is nothing of it, it says so further down
        keys = [part.key for part in COMPARISON.parts(ComparisonView.of(others, {}, None))]
        assert keys.index("training") == keys.index("opposed") - 1

    def test_every_part_says_which_tables_it_is_from(self, models: list[ModelTables]) -> None:
        parts = COMPARISON.parts(ComparisonView.of(models, {}, None))
        assert [part.key for part in parts if not part.tables] == ["protocol"]

    def test_models_keep_their_names_where_some_are_shown(self, models: list[ModelTables]) -> None:
        twice = [*models[1:4], model_tables({**models[3].about.to_json(), "folder": "again"}, models[3].tables)]
        parts = {part.key: part for part in COMPARISON.parts(ComparisonView.of(twice, {}, None))}
        assert [row[0] for row in parts["models"].rows][:2] == ["toy-2l (toy-2l)", "toy-2l (again)"]
        assert {row[1] for row in parts["strongest"].rows} <= {row[0] for row in parts["models"].rows}
