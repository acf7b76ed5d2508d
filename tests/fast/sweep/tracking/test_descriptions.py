"""What MLflow's descriptions say of a model, a sweep and an experiment."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from erasure_sweep.sweep.tracking.descriptions import (
    MAX_EXPERIMENT_NOTE,
    MAX_RUN_NOTE,
    Row,
    experiment_note,
    model_note,
    plain,
    sweep_note,
)
from erasure_sweep.workers.manifest import ManifestEntry
from tests.support.fakes.tables import fake_sweep

NASTY = "a|b <img src=x onerror=alert(1)>\n# *not* [a](b) `c`"
SHAPE = {"n_layers": 2, "n_heads": 2, "d_model": 8, "n_params": 1000, "n_prompts": 4, "n_tokens": 64}
MODEL = ManifestEntry(name="toy", folder="toy", state="FINISHED", **SHAPE)
SWEEP = fake_sweep(version="0.1.0", device_type="cpu", config={"corpus": "stdlib", "seq_len": 16, "seed": 0})


def writers(**changes: Any) -> pd.DataFrame:
    table = {
        "writer": ["embed", "L0H0", "L0H1", "MLP0"],
        "written": [1.0, 1.0, 0.8, None],
        "remaining": [0.4, 0.6, 0.1, None],
        "opposed": [-0.7, -0.4, -0.9, None],
        "erased": [1.5, 0.2, 0.9, None],
        "erased_centred": [1.25, 0.1, 0.75, None],
        "erased_centred_low": [1.125, 0.0, 0.5, None],
        "erased_centred_high": [1.375, 0.2, 1.0, None],
        "written_centred": [1.0, 1.0, 0.75, None],
        "remaining_centred": [0.0, 0.875, 0.0, None],
        "diluted": [0.5, 0.25, 0.0, None],
        "erasers": ["L1H0+L1H1", "", "L1H0+L2H0+L2H1+L3H0+L3H1", None],
    }
    table |= changes
    clear = [share is not None and share > 0.05 for share in table["erased"]]
    return pd.DataFrame({"clearly_erased": clear, **table})


def trust(*words: str | None, settled: bool | None = True) -> pd.DataFrame:
    """Components with these words; of the first it is not known whether it is settled, or it is not."""
    said = pd.Series([settled, *[True] * (len(words) - 1)], dtype=object)
    return pd.DataFrame({"writer": [f"L0H{index}" for index in range(len(words))], "trust": words, "settled": said})


def verified(verdict: str | None = "erased", group: str = "L1H0+L1H1") -> dict[str, pd.DataFrame]:
    row = {"writer": "embed", "group": group, "eraser": group, "held_out": True}
    numbers = {"beta": -0.8, "beta_low": -0.9, "beta_high": -0.7, "verdict": verdict}
    return {"eraser_group": pd.DataFrame([row | numbers])}


def lines(tables: dict[str, pd.DataFrame], model: ManifestEntry = MODEL) -> list[str]:
    return model_note(model, SWEEP, tables).splitlines()


class TestAModel:
    def test_begins_with_the_most_erased_writer_and_head(self) -> None:
        assert lines({"writers": writers()})[0] == (
            "Most erased: **embed**, of which later heads (L1H0 and L1H1) take out 1.25 [1.12, 1.38] (1.50 with means kept); "
            "written → remaining: 1.00\u00a0→\u00a00.00 (1.25 taken out and 0.25 written back); diluted 0.50; most erased "
            "head: **L0H1**, of which later heads (L1H0, L2H0, L2H1, L3H0 and 1 more) take out 0.75 [0.50, 1.00] (0.90 with "
            "means kept); written → remaining: 0.75\u00a0→\u00a00.00; diluted 0.00. The median over 2 heads is 0.42 [0.25, "
            "0.60]; 1 is all that the writer wrote, below 0 later heads add to it. 2 of 3 writers end with less than half of "
            "what they wrote, means removed."
        )

    def test_erasers_that_take_out_most_come_first(self) -> None:
        betas = {"L1H0": -0.1, "L2H0": -0.05, "L2H1": -0.3, "L3H0": 0.0, "L3H1": -0.5}
        pairs = pd.DataFrame({"writer": "L0H1", "eraser": list(betas), "beta": list(betas.values())})
        note = lines({"writers": writers(), "v_composition": pairs})
        assert "**L0H1**, of which later heads (L3H1, L2H1, L1H0, L2H0 and 1 more)" in note[0]
        assert "| L0H1 | 0.75 [0.50, 1.00] | 0.90 | 0.00 | 0.75 | 0.00 | L3H1, L2H1, L1H0, L2H0 and 1 more |" in note

    def test_of_one_layer_no_head_could_be_erased(self) -> None:
        table = writers(erased=[0.5, None, None, None], erased_centred=None)
        assert "; no head has later heads that could read it." in lines({"writers": table})[0]

    def test_names_a_head_once(self) -> None:
        first = lines({"writers": writers(erased=[0.1, 0.2, 0.9, None], erased_centred=None)})[0]
        assert first.startswith("Most erased: **L0H1**, of which later heads (")
        assert "most erased head" not in first

    def test_of_which_no_head_is_erased(self) -> None:
        first = lines({"writers": writers(erased=[0.1, -0.2, 0.0, None], erased_centred=None)})[0]
        assert (
            "**embed**, of which later heads (L1H0 and L1H1) take out 0.10; written" in first
            and "; no head clearly is." in first
        )

    def test_in_which_nothing_is_erased(self) -> None:
        table = writers(erased=[-0.1, -0.2, 0.004, None], erased_centred=None)
        assert (
            lines({"writers": table})[0]
            == "Erased: nothing clear of chance: the most is 0.00, of L0H1. 2 of 3 writers end with less than half of what "
            "they wrote, means removed."
        )

    def test_lists_writers_with_the_most_erased_first(self) -> None:
        rows = [line for line in lines({"writers": writers()}) if line.startswith("| ")][2:]
        assert rows == [
            "| embed | 1.25 [1.12, 1.38] | 1.50 | 0.50 | 1.00 | 0.00 | L1H0 and L1H1 |",
            "| L0H1 | 0.75 [0.50, 1.00] | 0.90 | 0.00 | 0.75 | 0.00 | L1H0, L2H0, L2H1, L3H0 and 1 more |",
            "| L0H0 | 0.10 [0.00, 0.20] | 0.20 | 0.25 | 1.00 | 0.88 | none |",
        ]

    def test_says_whose_attribution_misleads(self) -> None:
        note = lines({"writers": writers(), "dla_trust": trust("holds", "reversed", "holds", None, "cancelled")})
        assert note[2] == (
            "The direct logit attribution of 2 of 4 components holds (2 holds, 1 cancelled and 1 reversed). It misleads for "
            "L0H1 and L0H4."
        )
        assert "misleads" not in "".join(lines({"dla_trust": trust("holds", "partly cancelled")}))
        assert "attribution" not in "".join(lines({"dla_trust": trust(None)}))

    @pytest.mark.parametrize("settled", [False, None])
    def test_words_that_are_not_settled_count_for_nothing(self, settled: bool | None) -> None:
        note = "".join(lines({"dla_trust": trust("reversed", "holds", settled=settled)}))
        assert "attribution of 1 of 2 components holds (1 holds; 1 unsettled)." in note
        assert "misleads" not in note
        alone = "".join(lines({"dla_trust": trust("reversed", settled=settled)}))
        assert "attribution of 0 of 1 components holds (no word is settled; 1 unsettled)." in alone

    def test_says_what_verify_found(self) -> None:
        note = lines(verified())
        assert note[0] == "No writer has a value."
        assert "- embed by L1H0 and L1H1: erased, β −0.80 [−0.90, −0.70]" in note
        assert "- embed by all later heads: no verdict, β −0.80 [−0.90, −0.70]" in lines(verified(None, "later"))

    def test_of_another_version_or_of_nothing_is_described_all_the_same(self) -> None:
        old = writers()[["writer", "written", "remaining", "opposed"]]
        assert lines({"writers": old})[0] == "2 of 3 writers end with less than half of what they wrote, means kept."
        assert lines({})[0] == "No writer has a value."
        assert "Measured on 4 prompts of 16 tokens" in "".join(lines({}))

    def test_names_are_text(self) -> None:
        note = model_note(MODEL.model_copy(update={"corpus": NASTY}), SWEEP, {})
        assert "<img" not in note.replace("\\<img", "")
        assert "\n#" not in note


def row(name: str = "toy", status: str = "FINISHED", **metrics: float) -> Row:
    sizes = {"model/n_layers": 2.0, "model/d_model": 64.0, "model/n_params": 98304.0}
    head = {"erased/heads_median": 0.25, "erased/heads_most_of_8": 0.5, "trust/holds_share": 0.75}
    tags = {"most_erased": "embed", "most_erased_head": "L0H1"}
    run_id = "".join(filter(str.isalnum, name))
    return Row(name, f"#/experiments/1/runs/{run_id}", status, {**sizes, **head, **metrics}, tags)


class TestASweep:
    def test_is_a_table_of_its_models(self) -> None:
        note = sweep_note(SWEEP, [row("one"), row("two", **{"erased/heads_median": 0.75})])
        assert note.startswith(
            "2 models. What later heads take out of a head, the median over a model's heads: 0.25 of one to 0.75 of two; each "
            "model is one training run."
        )
        cells = "2 | 64 | 98,304 | 0.25 | 0.50 | embed | L0H1 | 75\u00a0% |"
        assert f"| [one](#/experiments/1/runs/one) | {cells}" in note.splitlines()
        assert "compare.html" in note

    def test_of_models_without_numbers_says_so(self) -> None:
        note = sweep_note(SWEEP, [Row("toy", "#/x", "RUNNING", {}, {})])
        assert note.startswith("1 model, 1 of which still measured.")
        assert "| [toy](#/x) (still measured) | — | — | — | — | — | — | — | — |" in note
        assert sweep_note(SWEEP, []).startswith("0 models.")
        rows = [row("one"), row("two", "KILLED"), row("three", "FAILED"), row("four", "RUNNING")]
        note = sweep_note(SWEEP, rows)
        assert note.startswith("4 models, 1 of which still measured, 2 of which not measured whole. ")
        assert "/two) (killed) |" in note and "/three) (failed) |" in note

    def test_numbers_that_another_version_logged_are_not_taken_for_these(self) -> None:
        older = Row("old", "#/old", "FINISHED", {"reading/most_erased_head": 2.5, "trust/trusted_share": 1.0}, {})
        note = sweep_note(SWEEP, [older, row("new")])
        assert "0.25 of new; each model is one training run." in note
        assert "| [old](#/old) | — | — | — | — | — | — | — | — |" in note
        assert "2.50" not in note

    def test_says_where_nothing_is_erased(self) -> None:
        still = row("still")._replace(tags={})
        assert "one training run. Nothing is taken out clear of chance.\n" in sweep_note(SWEEP, [still])
        assert "In 1 of 2 models nothing is taken out clear of chance." in sweep_note(SWEEP, [still, row("one")])
        # of a model without a head that could be read nothing is known
        assert "clear of chance" not in sweep_note(SWEEP, [row("one"), still._replace(metrics={})])

    @pytest.mark.parametrize(
        ("note", "most"),
        [(sweep_note, MAX_RUN_NOTE), (lambda sweep, rows: experiment_note("x", "1", sweep, rows), MAX_EXPERIMENT_NOTE)],
    )
    def test_of_many_models_shows_as_many_as_stores_keep(self, note: Any, most: int) -> None:
        text = note(SWEEP, [row(f"model-{index}") for index in range(1000)])
        assert most - 500 < len(text) <= most
        shown = text.count("| [model")
        assert f"\nand {1000 - shown} more." in text
        assert "Measured on" in text

    def test_names_are_text(self) -> None:
        note = sweep_note(SWEEP, [row(NASTY)])
        (line,) = [line for line in note.splitlines() if "/runs/" in line]
        assert line.count(" | ") == 8
        assert "<img" not in line.replace("\\<img", "")


def test_an_experiment_begins_with_its_result_and_leads_to_the_view() -> None:
    note = experiment_note("family", "7", SWEEP, [row()])
    assert "the median over a model's heads: 0.25 of toy; each model" in note.splitlines()[0]
    assert "(#/experiments/7/runs?viewStateShareKey=erasure&workflowType=machine_learning)" in note
    assert "From the newest sweep, family." in note


def test_plain_text_is_one_line_that_markdown_leaves_alone() -> None:
    assert plain("L0H1 pos_embed") == "L0H1 pos\\_embed"
    assert plain("a\n\n# b | <c>") == "a \\# b \\| \\<c\\>"
