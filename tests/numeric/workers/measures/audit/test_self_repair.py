"""Self-repair of heads against literal reruns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erasure_sweep.workers.measures.audit.self_repair import measure_self_repair
from erasure_sweep.workers.models.forward import LeanModel
from tests.support.models.random_models import KINDS, random_config, random_processed_weights
from tests.support.oracle.scan import as_numpy, forward
from tests.support.oracle.sublayers import centre


@pytest.mark.parametrize("kind", ["GPT-NeoX", "Llama", "GPT-2"])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_every_head_is_the_oracles(kind: str, share: float) -> None:
    config = random_config(**{"n_layers": 2, "n_heads": 2, "d_model": 24} | KINDS.get(kind, {}))
    weights = random_processed_weights(config, 3)
    tokens = np.random.default_rng(1).integers(0, config.d_vocab, (3, 7))
    found = measure_self_repair(LeanModel(config, weights, dtype=torch.float64), tokens, share)
    w, layout = as_numpy(weights), config.layout
    runs = [forward(config, w, row) for row in tokens]
    final = layout.states[-1]
    for index, head in enumerate(layout.heads):
        rows = []
        for prompt, (row, run) in enumerate(zip(tokens, runs, strict=True)):
            other = runs[(prompt + 1) % 3].terms[head]
            change = other - run.terms[head]
            again = forward(config, w, row, added={layout.states[layout.written_state(head)]: change})
            for at in range(len(row) - 1):
                u = centre(config, w["W_U"][:, row[at + 1]])
                g = u / run.final_scale[at]
                parts = {term: (again.terms[term] - run.terms[term])[at] @ g for term in layout.terms if term != head}
                after = again.states[final][at] @ u / again.final_scale[at]
                rows.append(
                    (
                        run.terms[head][at] @ g,
                        other[at] @ g,
                        after - run.states[final][at] @ g,
                        after * (1.0 - again.final_scale[at] / run.final_scale[at]),
                        sum(part for term, part in parts.items() if "H" in term),
                        sum(part for term, part in parts.items() if term.startswith("MLP")),
                    )
                )
        table = np.array(rows)
        largest = np.argsort(-table[:, 0], kind="stable")[: max(1, round(share * len(table)))]
        means = table[largest].mean(axis=0)
        np.testing.assert_allclose([values[index] for values in found], means, atol=1e-9)
        direct, after_ablation, total, *repairs = means
        assert total == pytest.approx(-(direct - after_ablation) + sum(repairs), abs=1e-9)
