"""The oracle of verify: its reruns against TransformerLens with edited hooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests.numeric.support.test_oracle_scan import (
    SHAPES,
    bridge_states,
    bridge_terms,
    gpt2_bridge,
    native_bridge,
    read_bridge,
)
from tests.support.oracle import verify_adversarial as oracle_verify_adversarial
from tests.support.oracle import verify_effects as oracle_verify_effects
from tests.support.oracle import verify_setting as setting
from tests.support.oracle import verify_trust as oracle_verify_trust
from tests.support.oracle.scan import as_numpy, forward, layer_of_head
from tests.support.oracle.sublayers import centre, place_of, read_stream
from tests.support.oracle.v_composition import resid_pre
from tests.support.oracle.verify_nulls import Nulls
from tests.support.oracle.verify_setting import Setting

AGREEMENT = 1e-10
KINDS = [*SHAPES, "gpt2"]


class Bridged:
    """A bridge, what the oracle reads of it, and two prompts."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.bridge: TransformerBridge = gpt2_bridge(folder) if kind == "gpt2" else native_bridge(**SHAPES[kind])
        self.bridge.enable_compatibility_mode(disable_warnings=True)
        self.config, tensors = read_bridge(self.bridge)
        self.w = as_numpy(tensors)
        rng = np.random.default_rng(5)
        self.ids = rng.integers(0, self.config.d_vocab, (2, self.config.n_ctx))
        self.tokens = torch.from_numpy(self.ids)
        self.runs = [forward(self.config, self.w, prompt) for prompt in self.ids]

    def run(self, hooks: dict[str, Callable]) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
        """Logits, and terms and states as arrays [prompt, pos, d_model], of a run with hooks."""
        with torch.no_grad(), self.bridge.hooks(fwd_hooks=list(hooks.items())):
            logits, cache = self.bridge.run_with_cache(self.tokens)
        found = bridge_terms(self.bridge, self.config, cache) | bridge_states(self.config, cache)
        return logits, {label: values.detach().numpy() for label, values in found.items()}

    def where_added(self, state: str) -> str:
        """The hook whose output is added to the stream just before a state."""
        if state == "resid_pre0":
            return "hook_pos_embed"
        layer = int(state.removeprefix("resid_mid").removeprefix("resid_post"))
        return f"blocks.{layer}.hook_{'attn' if 'mid' in state or self.config.attn_only else 'mlp'}_out"


@pytest.fixture(params=KINDS)
def bridged(request: pytest.FixtureRequest, tmp_path: Path) -> Bridged:
    return Bridged(request.param, tmp_path)


def adding(values: np.ndarray) -> Callable:
    """A hook that adds something."""
    return lambda x, hook: x + torch.from_numpy(values)


def test_reruns_without_edits_are_the_forward_pass(bridged: Bridged) -> None:
    for prompt, clean in zip(bridged.ids, bridged.runs, strict=True):
        nothing = np.zeros_like(clean.terms["embed"])
        edits = {"added": dict.fromkeys(clean.states, nothing), "unseen": dict.fromkeys(clean.patterns, nothing)}
        again = forward(bridged.config, bridged.w, prompt, **edits)
        assert again.last_term == clean.last_term
        for name in ("terms", "attention", "states", "patterns"):
            mine, expected = getattr(again, name), getattr(clean, name)
            assert list(mine) == list(expected)
            for label in expected:
                np.testing.assert_allclose(mine[label], expected[label], atol=1e-13)
        np.testing.assert_allclose(again.logits, clean.logits, atol=1e-12)


def test_reruns_from_an_edited_stream_agree_with_the_bridge(bridged: Bridged) -> None:
    rng = np.random.default_rng(1)
    for state in bridged.runs[0].states:
        edit = rng.standard_normal((2, bridged.config.n_ctx, bridged.config.d_model))
        logits, found = bridged.run({bridged.where_added(state): adding(edit)})
        for i, prompt in enumerate(bridged.ids):
            again = forward(bridged.config, bridged.w, prompt, added={state: edit[i]})
            edited = "pos_embed" if state == "resid_pre0" else bridged.runs[0].last_term[state]
            for label in (*again.terms, *again.states):
                if label != edited:  # where the bridge has the edit in the term itself
                    mine = again.terms.get(label, again.states.get(label))
                    np.testing.assert_allclose(mine, found[label][i], atol=AGREEMENT, err_msg=f"{state} {label}")
            np.testing.assert_allclose(again.logits, logits[i], atol=AGREEMENT)
            assert np.abs(again.logits - bridged.runs[i].logits).max() > 1e-3


def test_reruns_with_edited_values_agree_with_the_bridge(bridged: Bridged) -> None:
    """Every head of the last two layers: values read the run's own stream, without what the clean run's writer is there."""
    config, writer = bridged.config, "L0H1" if bridged.config.n_layers > 2 else "embed"
    layers = range(config.n_layers - 2, config.n_layers)
    unseen = [
        {
            f"L{layer}H{h}": centre(config, run.terms[writer]) / run.ln1_scales[layer][:, None]
            for layer in layers
            for h in range(0, config.n_heads, 2 if layer == layers[0] else 1)
        }
        for run in bridged.runs
    ]

    def edit(head: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([part[head] @ bridged.w["W_V"][place_of(head)] for part in unseen]))

    def hook_of(layer: int) -> Callable:
        def subtract(v: torch.Tensor, hook: object) -> torch.Tensor:
            v = v.clone()
            for head in unseen[0]:
                if layer_of_head(head) == layer:
                    v[:, :, place_of(head)[1]] -= edit(head)
            return v

        return subtract

    logits, found = bridged.run({f"blocks.{layer}.attn.hook_v": hook_of(layer) for layer in layers})
    for i, prompt in enumerate(bridged.ids):
        again = forward(config, bridged.w, prompt, unseen=unseen[i])
        for label in (*again.terms, *again.states):
            mine = again.terms.get(label, again.states.get(label))
            np.testing.assert_allclose(mine, found[label][i], atol=AGREEMENT, err_msg=label)
        np.testing.assert_allclose(again.logits, logits[i], atol=AGREEMENT)
        changed = np.abs(again.logits - bridged.runs[i].logits).max()
        assert changed > 1e-3


def arrange(bridged: Bridged) -> Setting:
    return setting.arrange(bridged.config, bridged.w, bridged.ids, None, block=2, seed=3, first_prompt=0)


def test_what_a_layer_loses_without_the_writer_in_its_input_agrees_with_the_bridge(bridged: Bridged) -> None:
    s = arrange(bridged)
    for layer in range(1 if bridged.config.n_layers > 2 else 0, bridged.config.n_layers):
        writer = "L0H1" if layer else "embed"
        written = np.stack(s.term(writer))
        _, found = bridged.run({f"blocks.{layer}.hook_resid_pre": adding(-written)})
        for head in (f"L{layer}H0", f"L{layer}H1"):
            expected = np.stack(s.term(head)) - found[head]
            lost = oracle_verify_effects.lost(s, head, writer, values_alone=False)
            np.testing.assert_allclose(np.stack(lost), expected, atol=AGREEMENT)
            assert np.abs(expected).max() > 1e-3


def test_what_an_mlp_loses_without_the_writer_in_its_input_agrees_with_the_bridge(bridged: Bridged) -> None:
    if bridged.config.attn_only:
        assert not list(oracle_verify_effects.mlps(arrange(bridged), "L0H1", Nulls({}, 0, ()), 0.05))
        return
    s = arrange(bridged)
    written = np.stack(s.term("L0H1"))
    rows = list(oracle_verify_effects.mlps(s, "L0H1", Nulls({}, 0, ()), 0.05))
    assert [row["component"] for row in rows] == [f"MLP{layer}" for layer in range(bridged.config.n_layers)]
    for layer, row in enumerate(rows):
        scale = np.stack([run.ln2_scales[layer] for run in s.runs])[..., None]
        _, found = bridged.run({f"blocks.{layer}.mlp.hook_in": adding(-centre(bridged.config, written) / scale)})
        read_part = np.stack(s.term(f"MLP{layer}")) - found[f"MLP{layer}"]
        assert row["beta"] == pytest.approx((read_part * written).sum() / (written**2).sum(), abs=AGREEMENT)
        medians = np.median((found[f"MLP{layer}"] * written).sum(-1) / (written**2).sum(-1))
        assert row["patched_median"] == pytest.approx(medians, abs=AGREEMENT)


def test_a_donors_input_at_the_last_position_agrees_with_the_bridge(bridged: Bridged) -> None:
    """The head's query, key and value at the last position are the donor's; earlier keys and values its own."""
    s, config = arrange(bridged), bridged.config
    here, donor = (oracle_verify_adversarial.cut(s, prompt) for prompt in bridged.ids)
    for head in (f"L{config.n_layers - 1}H1", "L0H0"):
        layer, index = place_of(head)
        x, _ = read_stream(config, resid_pre(donor.run, layer))

        def replace(name: str, at: tuple[int, int] = (layer, index), last: np.ndarray = x[-1]) -> Callable:
            bias = bridged.w[f"b_{name}"][at] if name != "V" else 0.0
            values = torch.from_numpy(last @ bridged.w[f"W_{name}"][at] + bias)

            def hook(held: torch.Tensor, hook: object) -> torch.Tensor:
                held = held.clone()
                held[0, -1, at[1]] = values
                return held

            return hook

        hooks = {f"blocks.{layer}.attn.hook_{name.lower()}": replace(name) for name in "QKV"}
        _, found = bridged.run(hooks)
        mine = oracle_verify_adversarial.replaced(s, here, donor, head, "last")
        np.testing.assert_allclose(mine[-1], found[head][0, -1], atol=AGREEMENT)
        assert np.abs(mine[-1] - here.run.terms[head][-1]).max() > 1e-3
        everywhere = oracle_verify_adversarial.replaced(s, here, donor, head, "all")
        np.testing.assert_array_equal(everywhere, donor.run.terms[head])
        assert np.abs(everywhere[-1] - mine[-1]).max() > 1e-3


def test_effects_of_replacing_agree_with_the_bridge(bridged: Bridged) -> None:
    """By its own logits, and by its own terms: what each later one changes, and the final norm, add up to them."""
    s = arrange(bridged)
    for writer in ("pos_embed", "L0H1", s.stream.writers[-1]):
        turned = oracle_verify_trust.rotated(s, writer)
        edit = [b - a for a, b in zip(s.term(writer), turned, strict=True)]
        state = s.stream.written_state(writer)
        logits, found = bridged.run({bridged.where_added(state): adding(np.stack(edit))})
        clean_logits, clean = bridged.run({})
        top = clean_logits.topk(2, dim=-1).indices
        differences = [values.gather(-1, top) for values in (clean_logits, logits)]
        expected = ((differences[0] - differences[1]) @ torch.tensor([1.0, -1.0], dtype=torch.float64)).numpy()
        run, g = oracle_verify_trust.ablated(s, writer, turned), np.stack(s.logit_directions())
        np.testing.assert_allclose(np.stack(run.effect), expected, atol=AGREEMENT)
        np.testing.assert_allclose(np.stack(run.direct), -(np.stack(edit) * g).sum(axis=-1), atol=AGREEMENT)
        order = list(s.stream.terms)
        for term in order[order.index(s.stream.last_term[state]) + 1 :]:
            changed = ((clean[term] - found[term]) * g).sum(axis=-1)
            np.testing.assert_allclose(np.stack(run.mediated[term]), changed, atol=AGREEMENT)


def test_losses_agree_with_the_bridge(bridged: Bridged) -> None:
    s = arrange(bridged)
    rows = list(oracle_verify_effects.ablations(s, "L0H1"))
    assert [row["ablation"] for row in rows] == ["equal_position", "random_position"]
    output, state = s.term("L0H1"), s.stream.written_state("L0H1")
    logits, _ = bridged.run({})
    edit = np.stack([output[1] - output[0], output[0] - output[1]])
    ablated, _ = bridged.run({bridged.where_added(state): adding(edit)})
    nll = [
        torch.nn.functional.cross_entropy(
            values[:, :-1].flatten(0, 1), bridged.tokens[:, 1:].flatten(), reduction="none"
        )
        for values in (logits, ablated)
    ]
    assert rows[0]["clean_loss"] == pytest.approx(float(nll[0].mean()), abs=AGREEMENT)
    assert rows[0]["increase_mean"] == pytest.approx(float((nll[1] - nll[0]).mean()), abs=AGREEMENT)
    increases = np.quantile((nll[1] - nll[0]).numpy(), [0.125, 0.5, 0.875])
    np.testing.assert_allclose([rows[0][name] for name in ("q12_5", "median", "q87_5")], increases, atol=AGREEMENT)
    assert {row["n"] for row in rows} == {2 * (bridged.config.n_ctx - 1)}
