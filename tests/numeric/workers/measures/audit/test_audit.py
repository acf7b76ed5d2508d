"""Audits against the literal oracle, for every kind of model, on prompts drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.measures.audit.baselines import STRIDE, Baseline, Reference
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.audit.session import Session
from erasure_sweep.workers.measures.audit.summary import (
    component_rows,
    joint_effect,
    joint_rows,
    mediation_rows,
    state_rows,
)
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import TrustThresholds
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.random_models import random_config, random_processed_weights
from tests.support.oracle import audit as oracle
from tests.support.oracle.scan import as_numpy, forward

DONORS = 3
WINDOW = 9
KINDS = [
    pytest.param(kind, marks=[] if kind in ("llama", "gemma 2", "pythia", "olmo 2") else [pytest.mark.nightly])
    for kind in MODELS
]


def model_of(tmp_path: Path, kind: str) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    source, _ = files_of(tmp_path, kind)
    return float64_weights(MODELS[kind][0], source)


def questions_of(config: ModelConfig, n: int, corrupted: bool = False) -> list[Question]:
    """Prompts of different lengths, with one answer or several."""
    draw, found = np.random.default_rng(n), []
    for row in range(n):
        tokens = draw.integers(0, config.d_vocab, 6 + row)
        other = np.where(draw.random(len(tokens)) < 0.5, tokens, draw.integers(0, config.d_vocab, len(tokens)))
        answers = draw.permutation(config.d_vocab)
        found.append(
            Question(
                tuple(tokens.tolist()),
                tuple(answers[: 1 + row % 2].tolist()),
                tuple(answers[5 : 6 + (row + 1) % 2].tolist()),
                tuple(other.tolist()) if corrupted else None,
            )
        )
    return found


def session_of(
    config: ModelConfig, weights: dict[str, torch.Tensor], questions: list[Question], kind: str
) -> tuple[Session, Reference]:
    ids = np.random.default_rng(9).integers(0, config.d_vocab, 30)
    reference = Reference(tuple(ids.tolist()), bos=1)
    model = LeanModel(config, weights, dtype=torch.float64)
    return Session(model, questions, Baseline(model, kind, reference, DONORS)), reference


def others_of(
    config: ModelConfig, weights: dict[str, torch.Tensor], question: Question, kind: str, reference: Reference
) -> oracle.Others:
    """What takes each writer's place, by the definitions."""
    w, writers, n = as_numpy(weights), config.layout.writers, len(question.tokens)
    if kind == "zero":
        return {writer: [np.zeros((n, config.d_model))] for writer in writers}
    if kind == "corrupted":
        assert question.corrupted is not None
        run = forward(config, w, question.corrupted)
        return {writer: [run.terms[writer]] for writer in writers}
    if kind == "mean":
        size = min(128, config.n_ctx or 128)
        starts = range(0, len(reference.ids) // (size - 1) or 1)
        ids = reference.ids * size
        runs = [forward(config, w, [1, *ids[start * (size - 1) :][: size - 1]]) for start in starts]
        return {
            writer: [np.tile(np.concatenate([run.terms[writer][1:] for run in runs]).mean(axis=0), (n, 1))]
            for writer in writers
        }
    ids, found = reference.ids * 4, {}
    runs = [forward(config, w, [1, *ids[donor * (n - 1) :][: n - 1]]) for donor in range(DONORS)]
    for writer in writers:
        found[writer] = []
        for donor, run in enumerate(runs):
            turned = run.terms[writer].copy()
            for position in range(1, n):
                turned[position] = run.terms[writer][1 + (position - 1 + STRIDE * donor) % (n - 1)]
            found[writer].append(turned)
    return found


def agree(found: pd.DataFrame, expected: list[dict[str, object]], key: str) -> None:
    rows = found.set_index(key)
    for row in expected:
        for name, value in row.items():
            if name == key:
                continue
            measured = rows.loc[row[key], name]
            if isinstance(value, float) and np.isnan(value) and abs(measured) < 1e-12:
                continue  # of a component that a corrupted prompt leaves as it is, rounding is all that varies
            if isinstance(value, float):
                assert measured == pytest.approx(value, rel=1e-8, abs=1e-10, nan_ok=True), (row[key], name)
            else:
                assert measured == value or (pd.isna(measured) and value is None), (row[key], name)


def check(config: ModelConfig, weights: dict[str, torch.Tensor], kind: str, n_prompts: int) -> None:
    questions = questions_of(config, n_prompts, corrupted=kind == "corrupted")
    session, reference = session_of(config, weights, questions, kind)
    layout, found = config.layout, session.effects()
    first = 0 if kind == "corrupted" else 1
    expected, joint = [], []
    members = [layout.heads[-1], layout.writers[0], layout.heads[1]]
    for question, one in zip(questions, found, strict=True):
        others = others_of(config, weights, question, kind, reference)
        asked = oracle.Asked(question.tokens, question.answers, question.against)
        expected.append(oracle.audit_prompt(config, weights, asked, others, first))
        joint.append(oracle.ablate_together(config, weights, asked, members, others, first))
        # identities: bars add up to the logit difference, mediators to the effect
        assert one.logit_difference == pytest.approx(expected[-1].total, abs=1e-10)
        closes = one.direct + one.mediated.sum(dim=2)
        assert torch.allclose(closes, one.effect, rtol=0, atol=1e-10)
    table = pd.DataFrame(component_rows(layout, found, TrustThresholds()))
    assert list(table["component"]) == [*layout.terms, "b_U"]
    assert table["dla"].sum() == pytest.approx(np.mean([one.total for one in expected]), abs=1e-10)
    agree(table, [oracle.component_row(expected, label) for label in layout.writers], "component")
    constants = [term for term in [*layout.terms, "b_U"] if term not in layout.writers]
    agree(
        table,
        [{"component": term, "dla": float(np.mean([one.dla[term] for one in expected]))} for term in constants],
        "component",
    )
    mediation = pd.DataFrame(mediation_rows(layout, found))
    pairs = list(zip(mediation["component"], mediation["mediator"], strict=True))
    assert sorted(pairs) == sorted(expected[0].mediated)
    for pair, value, low in zip(pairs, mediation["mediated"], mediation["mediated_low"], strict=True):
        row = oracle.mean_row("mediated", oracle.samples(expected, lambda one, pair=pair: one.mediated[pair]))
        assert value == pytest.approx(row["mediated"], abs=1e-9)
        tiny = np.isnan(row["mediated_low"]) and abs(low) < 1e-12
        assert tiny or low == pytest.approx(row["mediated_low"], rel=1e-7, abs=1e-9, nan_ok=True)
    again = session.joint(members)
    together = pd.DataFrame(joint_rows(layout, members, again)).set_index("component")["part"]
    for label in joint[0][0][0]:
        value = np.mean([np.mean([part[label] for part in parts]) for parts, _ in joint])
        assert together[label] == pytest.approx(value, abs=1e-9), label
    effect = joint_effect(again)
    assert effect[0] == pytest.approx(np.mean([np.mean(effects) for _, effects in joint]), abs=1e-9)
    assert together.sum() == pytest.approx(effect[0], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_the_oracles(tmp_path: Path, kind: str) -> None:
    check(*model_of(tmp_path, kind), "mean", 3)


@pytest.mark.parametrize("baseline", ["resample", "corrupted", "zero"])
@pytest.mark.parametrize("n_prompts", [1, 2])
def test_other_baselines(baseline: str, n_prompts: int) -> None:
    config = random_config(5)
    check(config, random_processed_weights(config, 5), baseline, n_prompts)


def test_a_model_without_mlps() -> None:
    config = random_config(3, attn_only=True)
    check(config, random_processed_weights(config, 3), "mean", 2)


@pytest.mark.parametrize("kind", ["llama", "pythia"])
def test_the_stream_builds_up_to_the_logit_difference(tmp_path: Path, kind: str) -> None:
    config, weights = model_of(tmp_path, kind)
    questions = questions_of(config, 2)
    session, _ = session_of(config, weights, questions, "zero")
    table = pd.DataFrame(state_rows(config.layout, session.lens(), None)).set_index("state")
    w = as_numpy(weights)
    sides = [oracle.Along(config, w, oracle.Asked(one.tokens, one.answers, one.against)) for one in questions]
    biases = [np.mean(w["b_U"][list(one.answers)]) - np.mean(w["b_U"][list(one.against)]) for one in questions]
    for at, state in enumerate(config.layout.states):
        states = [list(side.clean.states.values())[at][-1] for side in sides]
        accumulated = [s @ side.g + bias for s, side, bias in zip(states, sides, biases, strict=True)]
        seen = [s - s.mean() if config.norm == "layer" else s for s in states]
        lens = [
            s / np.sqrt((s**2).mean() + config.eps) @ side.u + bias
            for s, side, bias in zip(seen, sides, biases, strict=True)
        ]
        assert table.loc[state, "accumulated"] == pytest.approx(np.mean(accumulated), abs=1e-10)
        assert table.loc[state, "lens"] == pytest.approx(np.mean(lens), abs=1e-10)
    assert table["accumulated"].iloc[-1] == pytest.approx(table["lens"].iloc[-1], abs=1e-10)
    totals = [side.total() for side in sides]
    assert table["lens"].iloc[-1] == pytest.approx(np.mean(totals), abs=1e-10)


def test_patterns_are_the_models(tmp_path: Path) -> None:
    config, weights = model_of(tmp_path, "gemma 2")
    questions = questions_of(config, 2)
    session, _ = session_of(config, weights, questions, "zero")
    run = forward(config, as_numpy(weights), questions[1].tokens)
    pattern = run.patterns["L1H2"] * run.write_scales[1][:, None]
    np.testing.assert_allclose(session.pattern("L1H2", 1), pattern, atol=1e-10)


def test_no_answers_are_the_models_own_top_two() -> None:
    config = random_config(4)
    weights = random_processed_weights(config, 4)
    (question,) = questions_of(config, 1)
    logits = forward(config, as_numpy(weights), question.tokens).logits[-1]
    order = [int(token) for token in np.argsort(-logits, kind="stable")]
    for answers, against, expected in (
        ((), (), ((order[0],), (order[1],))),
        ((order[0],), (), ((order[0],), (order[1],))),
        ((order[7],), (), ((order[7],), (order[0],))),
        ((), (order[0], order[1]), ((order[2],), (order[0], order[1]))),
    ):
        asked = question._replace(answers=answers, against=against)
        (found,) = session_of(config, weights, [asked], "zero")[0].effects()
        assert (found.answers, found.against) == expected
