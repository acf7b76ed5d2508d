"""Audits of models that were built: each word on sets and on single prompts, backup heads, positional writers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.audit.baselines import Baseline, Reference
from erasure_sweep.workers.measures.audit.effects import Effects
from erasure_sweep.workers.measures.audit.questions import Question
from erasure_sweep.workers.measures.audit.session import Session
from erasure_sweep.workers.measures.audit.summary import component_rows, joint_effect, joint_rows, mediation_rows
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.records import TrustThresholds
from tests.support.models.attributions import READER, READINGS, WRITER, plant_turning, plant_word
from tests.support.models.backups import BACKUP, MOVER, NEGATIVE, plant_backup

Weights = dict[str, torch.Tensor]


def session_of(
    config: ModelConfig, weights: Weights, n_prompts: int, kind: str = "mean", length: int | None = None
) -> Session:
    """Prompts of random tokens, each with an answer and what is against it."""
    draw = np.random.default_rng(71)
    model, questions = LeanModel(config, weights, dtype=torch.float64), []
    for _ in range(n_prompts):
        answers = draw.permutation(config.d_vocab)[:2].tolist()
        tokens = draw.integers(0, config.d_vocab, length or config.n_ctx)
        questions.append(Question(tuple(tokens.tolist()), (answers[0],), (answers[1],)))
    reference = Reference(tuple(draw.integers(0, config.d_vocab, 1024).tolist()), None)
    return Session(model, questions, Baseline(model, kind, reference, 24))


def tables_of(session: Session) -> tuple[pd.DataFrame, dict[tuple[str, str], float]]:
    layout, found = session.model.config.layout, session.effects()
    rows = pd.DataFrame(component_rows(layout, found, TrustThresholds())).set_index("component")
    mediation = pd.DataFrame(mediation_rows(layout, found)).set_index(["component", "mediator"])["share"]
    return rows, mediation.to_dict()


@pytest.mark.parametrize("word", READINGS)
def test_a_set_has_the_word_that_was_built(word: str) -> None:
    planted = plant_word(word)
    rows, shares = tables_of(session_of(planted.config, planted.weights, 64 if word == "unrelated" else 24))
    row = rows.loc[WRITER]
    assert row["word"] == word
    assert row["settled"] or word == "unrelated"
    if word != "unrelated":
        assert row["share"] == pytest.approx(planted.share, abs=0.02)
        assert shares[WRITER, READER] == pytest.approx(planted.mediated, abs=0.02)


@pytest.mark.parametrize("word", ["holds", "cancelled", "reversed", "amplified"])
def test_one_prompt_has_it_too_from_donors(word: str) -> None:
    planted = plant_word(word)
    rows, _ = tables_of(session_of(planted.config, planted.weights, 1, "resample"))
    assert (rows.loc[WRITER, "word"], rows.loc[WRITER, "settled"]) == (word, True)


@pytest.mark.parametrize("word", ["holds", "cancelled"])
def test_one_prompt_without_donors_settles_nothing(word: str) -> None:
    planted = plant_word(word)
    rows, _ = tables_of(session_of(planted.config, planted.weights, 1))
    assert rows.loc[WRITER, "word"] == word
    assert rows["effect_low"].isna().all()
    assert not rows["settled"].fillna(False).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("n_prompts", [1, 24])
def test_a_positional_writer_arrives_or_is_erased(fraction: float, n_prompts: int) -> None:
    planted = plant_turning(fraction)
    kind = "resample" if n_prompts == 1 else "mean"
    rows, _ = tables_of(session_of(planted.config, planted.weights, n_prompts, kind))
    assert (rows.loc[WRITER, "word"], rows.loc[WRITER, "settled"]) == (planted.word, True)
    assert rows.loc[WRITER, "size"] == pytest.approx(1.0 - fraction, abs=0.15)


@pytest.mark.parametrize(("constant", "word"), [(0.0, "holds"), (0.6, "cancelled"), (1.0, "reversed")])
def test_a_mean_bar_that_a_constant_turns_round_does_not_hold(constant: float, word: str) -> None:
    """Prompt by prompt the effect is what the bar says, less the same amount everywhere: squares alone would let it hold."""
    layout = Layout(1, 1, attn_only=True, pos_embed=False, attn_bias=False)
    direct = 0.6 + 3.0 * np.random.default_rng(2).standard_normal(40)
    found = []
    for value in direct - direct.mean() + 0.6:
        of_head, zero = torch.tensor([[0.0, value]], dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64)
        effect = of_head - torch.tensor([0.0, constant], dtype=torch.float64)
        found.append(Effects((0,), (1,), value, of_head[0], 0.0, of_head, effect, zero, of_head))
    row = pd.DataFrame(component_rows(layout, found, TrustThresholds())).set_index("component").loc["L0H0"]
    assert row["r"] ** 2 > 0.5 and 0.75 < (direct * (direct - constant)).sum() / (direct**2).sum() < 1.33
    assert row["effect"] == pytest.approx(0.6 - constant) and row["share"] == pytest.approx(1.0 - constant / 0.6)
    assert row["word"] == word


def test_a_backup_answers_when_the_mover_goes_and_shows_when_both_go() -> None:
    config, weights = plant_backup()
    session = session_of(config, weights, 24)
    rows, shares = tables_of(session)
    assert rows.loc[MOVER, "word"] == "cancelled"
    assert shares[MOVER, BACKUP] == pytest.approx(-1.0, abs=0.02)
    assert abs(rows.loc[BACKUP, "dla"]) < 1e-3  # it is silent
    assert rows.loc[NEGATIVE, "word"] == "holds"
    answered, alone = _joint(session, [MOVER]), rows.loc[MOVER, "effect"]
    assert answered[0] == pytest.approx(alone, abs=1e-10)
    # squares over prompts, because answers are drawn and means may be near zero
    together = np.array([float(one.effect[0]) for one in session.joint([MOVER, BACKUP])])
    direct = np.array([float(one.direct[0, _writer(config, MOVER)]) for one in _found(session)])
    assert np.square(together - direct).sum() < 1e-3 * np.square(direct).sum()
    parts = pd.DataFrame(joint_rows(config.layout, [MOVER, BACKUP], session.joint([MOVER, BACKUP])))
    assert parts.set_index("component")["is_member"].sum() == 2


def _joint(session: Session, members: list[str]) -> tuple[float, float, float]:
    return joint_effect(session.joint(members))


def _found(session: Session) -> list[Effects]:
    return session.effects()


def _writer(config: ModelConfig, label: str) -> int:
    return config.layout.writers.index(label)
