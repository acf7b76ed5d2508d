"""Which models stand beside which, what the table of them says, and whether they read the same text."""

from __future__ import annotations

from typing import Any

import pytest

from erasure_sweep.dashboards.comparison.overview import overview, texts_line
from erasure_sweep.dashboards.model_names import (
    counted,
    display_names,
    family_of,
    in_order,
    is_checkpoint,
    seedless,
    series_of,
)
from erasure_sweep.dashboards.wording import between, measured_line, model_line, protocol_warnings
from erasure_sweep.workers.manifest import ManifestEntry
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_checkpoints, fake_manifest, fake_model, model_tables, point
from tests.support.fakes.views import comparison_view

POINTS = (0, 65536, 1048576, 16777216)


def entry(about: dict[str, Any]) -> ManifestEntry:
    return model_tables(about, {}).about


@pytest.fixture(scope="module")
def checkpoints() -> list[ModelTables]:
    return fake_checkpoints("toy-gelu-2l", POINTS, n_layers=2, n_heads=2, n_tokens=24, d_model=24)


class TestLineup:
    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("toy-gelu-4l", "toy-gelu"),
            ("toy-gelu-4l-w128", "toy-gelu"),
            ("toy-gelu-4l@65536", "toy-gelu"),
            ("attn-only-2l@-1", "attn-only"),
            ("solu-1l", "solu"),
            ("gpt2", "gpt2"),
            ("gpt2-xl", "gpt2"),
            ("gpt2-medium@step500", "gpt2"),
            ("pythia-70m-deduped", "pythia-deduped"),
            ("gpt-neo-1.3B", "gpt-neo"),
            ("GELU_4L512W_C4_Code", "GELU_C4_Code"),
            ("distilgpt2", "distilgpt2"),
            ("gelu-4l · one", "gelu · one"),
            ("gelu-4l@65536 · one", "gelu · one"),
            ("@3", "@3"),
            ("mixed-bag", "mixed-bag"),
            ("toy-2l-seed3@5", "toy"),
            ("toy_seed-12_w128", "toy"),
            ("poppy-seeds-2l", "poppy-seeds"),
            ("-seed1", "-seed1"),
        ],
    )
    def test_a_family_is_a_name_without_its_sizes(self, name: str, family: str) -> None:
        assert family_of(name) == family

    def test_training_runs_that_differ_in_their_seed_have_one_name_without_it(self) -> None:
        names = ["toy-2l", "toy-2l-seed1", "toy-SEED2-2l", "toy-2l_seed_30", "toy-2l-seed", "toy-2l-reseed1"]
        assert [seedless(name) for name in names] == [*["toy-2l"] * 4, "toy-2l-seed", "toy-2l-reseed1"]
        assert seedless("toy-2l-seed3@65536 · one") == "toy-2l@65536 · one"

    def test_a_checkpoint_is_known_by_its_base(self) -> None:
        assert is_checkpoint(entry({"name": "m@5", "base": "m"}))
        assert is_checkpoint(entry({"name": "m@5 · one", "base": "m"}))
        assert not is_checkpoint(entry({"name": "m · one", "base": "m"}))
        # an older run, a folder that is called so, and a model that goes by another name
        assert not is_checkpoint(entry({"name": "m@5"}))
        assert not is_checkpoint(entry({"name": "m@5", "base": "m@5"}))
        assert not is_checkpoint(entry({"name": "other", "base": "m"}))
        assert {series_of(entry({"name": name, "base": "m"})) for name in ("m@5 · one", "m · one")} == {"m · one"}

    def test_checkpoints_stand_by_tokens_with_the_final_weights_last(self) -> None:
        models = [
            point("b", {}, training_tokens=9),
            point("a@100", {}, training_tokens=100),
            point("b@10", {}, training_steps=10),
            point("a", {}),
            point("a@20", {}, training_tokens=20),
            point("b@9", {}, training_steps=9),
            model_tables({"name": "old"}, {}),
            point("a@0", {}, training_tokens=0),
        ]
        names = display_names(in_order(models))
        assert names == ["b@9", "b@10", "b", "a@0", "a@20", "a@100", "a", "old"]

    def test_models_without_checkpoints_stay_as_they_came(self) -> None:
        models = [point(name, {}, training_tokens=n) for name, n in (("z", 3), ("a", 1), ("k", 2))]
        assert display_names(in_order(models)) == ["z", "a", "k"]

    def test_models_and_checkpoints_are_counted_apart(self) -> None:
        models = [point(name, {}) for name in ("a", "b", "a@1")]
        assert counted(models) == "2 models and 1 checkpoint"
        assert [counted(some) for some in (models[:1], models[2:] * 3, [])] == ["1 model", "3 checkpoints", "0 models"]

    def test_ends_of_a_step_share_their_unit(self) -> None:
        assert between(2097152, 4194304) == "2.1 and 4.2 million"
        assert between(524288, 1048576) == "524,288 and 1 million"
        assert between(0, 64) == "0 and 64"
        assert between(9e8, 2.3e9) == "900 million and 2.3 billion"


class TestOverview:
    def test_checkpoints_stand_after_the_models(self, checkpoints: list[ModelTables]) -> None:
        table = overview(comparison_view([point("x", {}), *checkpoints, point("z", {})]))
        assert [row[0] for row in table.rows] == ["x", "toy-gelu-2l", "z", *(f"toy-gelu-2l@{at}" for at in POINTS[:-1])]
        title = next(column.title for column in table.columns if column.heading == "parameters")
        assert "without embeddings" in title

    def test_what_is_erased_sorts_by_the_number(self) -> None:
        one = point("a", {"L0H0": 0.25, "embed": 0.5})
        one.tables["writers"]["rank"] = [2, 1]
        cell = overview(comparison_view([one])).rows[0][-1]
        assert (cell.value, cell.markup.startswith("embed\u00a00.50")) == (0.5, True)

    def test_training_and_corpus_are_there_where_models_differ(self, checkpoints: list[ModelTables]) -> None:
        table = overview(comparison_view(checkpoints))
        at = [column.heading for column in table.columns].index("training tokens")
        assert [row[at] for row in table.rows] == list(POINTS)
        assert not {"corpus", "training steps"} & {column.heading for column in table.columns}
        other = model_tables({**checkpoints[0].about.to_json(), "corpus_name": "gelu-mix"}, {})
        table = overview(comparison_view([other, *checkpoints[1:]]))
        at = [column.heading for column in table.columns].index("corpus")
        assert [row[at] for row in table.rows] == ["gelu-mix", "stdlib", "stdlib", "stdlib"]

    def test_models_trained_alike_have_no_column_of_it(self) -> None:
        alike = [point(name, {}, training_tokens=16777216) for name in ("a", "b")]
        headings = [column.heading for column in overview(comparison_view([*alike, point("c", {})])).columns]
        assert not {"corpus", "training tokens", "training steps"} & set(headings)
        steps = [point(f"a@{n}", {}, training_steps=n) for n in (1, 2)]
        headings = [column.heading for column in overview(comparison_view(steps)).columns]
        assert "training steps" in headings
        assert "training tokens" not in headings


class TestTexts:
    def test_all_read_the_same(self, checkpoints: list[ModelTables]) -> None:
        sweep = fake_manifest(checkpoints)
        assert (
            texts_line(checkpoints, sweep) == "All models read the same text, stdlib, each through its own tokenizer."
        )
        assert texts_line(checkpoints[:1], sweep) == ""
        assert protocol_warnings(checkpoints, display_names(checkpoints)) == []

    def test_each_read_its_own(self, checkpoints: list[ModelTables]) -> None:
        other = fake_model("gelu-2l", 2, 2, n_tokens=24, corpus_name="gelu-mix", corpus_fingerprint="0" * 16)
        models = [*checkpoints, other]
        sweep = fake_manifest(models, config={"corpus": "own", "prompts": 8, "seq_len": 12})
        listed = "stdlib: toy-gelu-2l; gelu-mix: gelu-2l"
        assert texts_line(models, sweep) == f"Each model read its own training mix ({listed})."
        said = protocol_warnings(models, display_names(models))
        assert f"different corpora ({listed}): differences between them may come from the text." in said[0]
        assert "each model's own training mix, seed" in measured_line(None, sweep)
        assert "corpus gelu-mix, its own training mix, seed" in measured_line(other.about, sweep)

    def test_two_sweeps_on_different_text(self, checkpoints: list[ModelTables]) -> None:
        models = [*checkpoints[:1], model_tables({**checkpoints[1].about.to_json(), "corpus_name": "pile-10k"}, {})]
        line = texts_line(models, fake_manifest(models, config={"corpus": "stdlib / pile-10k"}))
        assert line.startswith("Not all models read the same text (stdlib: ")

    @pytest.mark.parametrize("changes", [{"corpus_name": None}, {"n_prompts": 4}, {"seed": 7}])
    def test_where_it_is_not_known_nothing_is_claimed(
        self, checkpoints: list[ModelTables], changes: dict[str, object]
    ) -> None:
        other = model_tables({**checkpoints[1].about.to_json(), **changes}, {})
        assert texts_line([checkpoints[0], other], fake_manifest(checkpoints)) == ""

    def test_what_many_models_differ_in_stays_short(self) -> None:
        models = [model_tables({"tau": 0.1 if at == 3 else 0.05, "git_commit": "a"}, {}) for at in range(300)]
        (said,) = protocol_warnings(models, [f"m{at}" for at in range(300)])
        assert said == "Models were measured with different τ: 0.05: m0, m1, m2, m4 and 295 more; 0.1: m3."
        (said,) = protocol_warnings([model_tables({"ln": ln}, {}) for ln in ("frozen", "recomputed")], ["a", "b"])
        assert said == "Models were measured with another LayerNorm scale in patched runs: a frozen, b recomputed."

    def test_a_models_page_says_how_far_it_was_trained_and_what_it_read(self) -> None:
        about = {"name": "m@8", "training_tokens": 32768, "training_steps": 8, "corpus_name": "stdlib"}
        assert model_line(entry(about)).endswith(", trained on 32,768 tokens in 8 steps.")
        assert model_line(entry({"training_steps": 512})).endswith(", trained for 512 steps.")
        assert model_line(entry({"training_tokens": 0, "training_steps": 0})).endswith(", before any training.")
        assert "trained" not in model_line(entry({"name": "m", "training_tokens": None}))
        described = {**about, "corpus": "stdlib: 3 documents"}
        assert "corpus stdlib: 3 documents, seed" in measured_line(entry(described), None)
        assert "corpus stdlib (3 documents), seed" in measured_line(entry({**about, "corpus": "3 documents"}), None)
