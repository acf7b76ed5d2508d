"""Verify beside a bare forward: what each substage costs in units of running the model once, and all of it together.

Three writers are verified, with erasers in one layer, in two layers and in the last one. A group or a trust shard is timed as
a worker measures it and divided by its prompts. The adversarial substage has a cost for each of its shards, the clean runs
of the places under test, and one for each donor; one shard has their tokens as well. Together they are weighed as a sweep
with the config's defaults weighs them: so many trust prompts, donors and shards of donors for each verified prompt.

The literal method stands beside one verified quantity: how much of a writer is in every state, and what is written along it
later, with the writer taken from the values of its erasers, and of all heads of their layers. By TransformerLens' hooks that
is a clean run with a cache and one more run with edited values for each patch, stopped before the unembedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.sweep.plan import DONORS, NULL_PROMPTS, blocks, draw_donors, given_places
from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.measures.interventions.placebos import Draws, Placebos
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.verified_prompt import WriterPrompt
from erasure_sweep.workers.measures.scan.composition import head_of
from erasure_sweep.workers.measures.stages import measure_shard
from erasure_sweep.workers.measures.verify.null_shares import NullShares, null_erasers
from erasure_sweep.workers.measures.verify.patched_residual import (
    CLEAN,
    LOSS,
    PATCHES,
    RESPONSE,
    PatchedResidualAccumulator,
    WrittenRow,
    later_components,
)
from erasure_sweep.workers.measures.verify.stream_covariance import StreamCovariance, stream_covariance
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    GroupWork,
    Place,
    PlaceboWork,
    ShardTask,
    State,
    Target,
    TrustWork,
    Work,
    WriterBlock,
    writers_of,
)
from tests.benchmarks.literal import Clean, bridge_with, literal_clean, vector_names, vectors_of
from tests.benchmarks.scan import BARE
from tests.benchmarks.settings import GELU_4L, Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, Timing, added, interleave, ratio_row, scaled

SUBJECT = "verify"
TOGETHER = "all of verify at the defaults, for each verified prompt"
ALL = "all positions"
AIMS = {(GELU_4L, ALL): 12.0}
"""Bare forwards that verify should cost at most."""
GIVEN = (12, 16, 20, 24)
"""Tokens of the prompts that a user might give."""
N_DONORS = 16
"""Enough that what they cost stands out beside the places' own."""
REPLACED, ROTATED = "trust: every writer replaced by its mean, with who mediates", "trust: by its rotated output"
OURS = "the same in verify, its clean pass included"
Case = Callable[[], object]


def verified_targets(layout: Layout) -> tuple[Target, ...]:
    """Three writers with erasers in a middle layer, in two layers and in the last, as far as a model has them."""
    first, last = layout.n_heads // 4, layout.n_layers - 1
    middle = max(1, layout.n_layers // 2)
    one_layer = tuple(f"L{middle}H{head}" for head in range(first, layout.n_heads))
    two_layers = dict.fromkeys(("L1H0", "L1H1", f"L{middle}H{first}"))
    mlp = () if layout.attn_only else (Target("MLP0", (f"L{last}H0",), "rule"),)
    return Target(f"L0H{first}", one_layer, "rule"), Target(f"L0H{first + 1}", tuple(two_layers), "rule"), *mlp


class Shares(NamedTuple):
    """How much falls to one verified prompt."""

    trust: float
    """Prompts of the substage ``trust`` on which writers are replaced by their mean."""
    rotated: float
    """Those on which rotated outputs replace them."""
    nulls: float
    """Prompts of the scan on which the nulls' groups are found."""
    shards: float
    """Shards of the substage ``adversarial``."""
    donors: float
    tokens: float
    """Shards of that substage that also measure their places' tokens: one of a model."""


def default_shares(config: SweepConfig) -> Shares:
    """Of a sweep whose corpus holds the prompts that it asks for and no more."""
    n_prompts = config.verify_prompts
    donors = len(draw_donors(config.seed, config.prompts + n_prompts, config.donors))
    trusted = min(config.trust_prompts, n_prompts)
    found = min(NULL_PROMPTS, config.prompts)
    rotated = min(config.rotated_prompts, trusted)
    return Shares(
        trusted / n_prompts,
        rotated / n_prompts,
        found / n_prompts,
        len(blocks(donors, DONORS)) / n_prompts,
        donors / n_prompts,
        1 / n_prompts,
    )


class Shards:
    """One shard of each substage, on random prompts.

    Args:
        model: the model.
        seq_len: of its prompts.
        n_prompts: of a shard.
    """

    def __init__(self, model: LeanModel, seq_len: int, n_prompts: int) -> None:
        self._model, self._n_prompts = model, n_prompts
        self._placebos: Placebos | None = None
        self._tokens = random_prompts(model.config, n_prompts, seq_len).numpy()
        self.config = build_config({"models": ["random"], "seq_len": seq_len, "block_prompts": n_prompts})
        self.targets = verified_targets(model.config.layout)
        states = self._measure("covariance", CovarianceWork(writers_of(self.targets)), None)
        draws = Draws(writers_of(self.targets), self.config.seed, self.config.placebos)
        self._placebos = Placebos(model, draws, stream_covariance([states[StreamCovariance.name]]))
        found = self.placebo(min(16, seq_len - 1))  # position 0 is left out
        self._nulls = null_erasers(model.config.layout, self.targets, self.config.placebos, [found])

    def group(self, positions: int | None) -> None:
        """Everything of the verified writers, at so many positions of each prompt."""
        work = GroupWork(self.targets, self.config.places, self.config.placebos, self._nulls)
        self._measure("group", work, positions)

    def placebo(self, positions: int | None) -> State:
        """Who takes out the verified writers' placebos and siblings."""
        work = PlaceboWork(writers_of(self.targets), self.config.placebos)
        return self._measure("placebo", work, positions)[NullShares.name]

    def trust(self, rotated: bool) -> None:
        """Every writer replaced, by its mean or by its rotated output on another prompt, on the beginnings of prompts."""
        writers = WriterBlock(0, len(self._model.config.layout.writers))
        self._measure("trust", TrustWork(writers, self.config.trust_tokens, rotated), None)

    def adversarial(self, n_donors: int, with_tokens: bool = False) -> None:
        """The places under test, with the inputs of so many donors: the shard's prompts, over and over."""
        given = tuple(tuple(self._tokens[0, :length].tolist()) for length in GIVEN)
        donors = tuple(donor % self._n_prompts for donor in range(n_donors))
        places = (*self.found(), *given_places(self.targets, given))
        self._measure("adversarial", AdversarialWork(places, given, donors, with_tokens), None)

    def found(self) -> tuple[Place, ...]:
        """As many places as verify looks for, spread over a prompt's positions."""
        writers = [writer for writer in writers_of(self.targets) for _ in range(self.config.places)]
        spread = (np.arange(len(writers)) + 0.5) / len(writers) * self._tokens.shape[1]
        return tuple(Place(writer, "found", 0, int(at)) for writer, at in zip(writers, spread, strict=True))

    def _measure(self, stage: str, work: Work, positions: int | None) -> dict[str, State]:
        batch = self.config.batch_on("cpu")
        task = ShardTask(
            "", stage, "", "", "", 0, self._n_prompts, positions, self.config.seed, work, batch, "cpu", "float32"
        )
        layout, d_model = self._model.config.layout, self._model.config.d_model
        means = np.zeros((len(layout.terms), d_model))
        return measure_shard(self._model, task, self._tokens, batch, means, self._placebos)


def measure_verify(settings: Settings) -> Iterator[Row]:
    """Rows for one shape: substages, all together, and the literal method."""
    torch.set_num_threads(settings.threads)
    config = settings.shapes[settings.verify_shape]
    weights = random_weights(config)
    model = LeanModel(config, weights)
    yield from _substages(settings, model)
    yield _literal_row(settings, model, bridge_with(config, weights))


def _substages(settings: Settings, model: LeanModel) -> Iterator[Row]:
    """Two protocols: all positions, and some."""
    shards = Shards(model, settings.seq_len, settings.verify_prompts)
    protocols = {ALL: None, f"{settings.n_positions} positions": settings.n_positions}
    cases: dict[str, Case] = {"no donors": partial(shards.adversarial, 0)}
    cases["donors"] = partial(shards.adversarial, N_DONORS)
    cases["tokens"] = partial(shards.adversarial, 0, with_tokens=True)
    cases |= {name: partial(shards.trust, name == ROTATED) for name in (REPLACED, ROTATED)}
    for protocol, positions in protocols.items():
        cases[f"placebo, {protocol}"] = partial(shards.placebo, positions)
        cases[f"group, {protocol}"] = partial(shards.group, positions)
    bare = partial(model.logits, random_prompts(model.config, 1, settings.seq_len))
    timings, beside = _timed(cases, bare, settings.verify_rounds)
    shard, prompt = timings["no donors"], 1 / settings.verify_prompts
    donor = scaled(added(timings["donors"], scaled(shard, -1)), 1 / N_DONORS)
    tokens = added(timings["tokens"], scaled(shard, -1))

    def row(measured: str, found: Sequence[Timing], aim: float | None = None) -> Row:
        return ratio_row(SUBJECT, settings.verify_shape, (measured, found), (BARE, beside), aim)

    shares = default_shares(shards.config)
    replaced, rotated = (scaled(timings[name], prompt) for name in (REPLACED, ROTATED))
    for protocol in protocols:
        group, placebo = (scaled(timings[f"{stage}, {protocol}"], prompt) for stage in ("group", "placebo"))
        parts = group, scaled(placebo, shares.nulls), scaled(replaced, shares.trust), scaled(rotated, shares.rotated)
        parts = *parts, scaled(shard, shares.shards), scaled(donor, shares.donors), scaled(tokens, shares.tokens)
        together = row(f"{TOGETHER}, {protocol}", reduce(added, parts), AIMS.get((settings.verify_shape, protocol)))
        together.details.update(shares._asdict())
        yield row(f"placebos and siblings of {len(shards.targets)} writers, {protocol}: for each prompt", placebo)
        yield row(f"group of {len(shards.targets)} writers, {protocol}: for each prompt", group)
        yield together
    for name, trust in ((REPLACED, replaced), (ROTATED, rotated)):
        yield row(f"{name}, {shards.config.trust_tokens} tokens of each prompt", trust)
    places = f"{len(shards.found())} places and {len(GIVEN)} given prompts"
    yield row(f"adversarial: for each shard, {places}", shard)
    yield row("adversarial: for each donor", donor)
    yield row("adversarial: tokens of the places, once", tokens)


def _timed(cases: dict[str, Case], bare: Case, rounds: int) -> tuple[dict[str, list[Timing]], list[Timing]]:
    """Timings of the cases, and of a bare forward: the mean of one before each, since a round takes minutes."""
    turns: dict[str, Case] = {}
    for name, case in cases.items():
        turns |= {f"bare before {name}": bare, name: case}
    timings = interleave(turns, rounds)
    bares = reduce(added, (timings[f"bare before {name}"] for name in cases))
    return timings, scaled(bares, 1 / len(cases))


def _literal_row(settings: Settings, model: LeanModel, bridge: Any) -> Row:
    prompt = random_prompts(model.config, 1, settings.seq_len)
    target = verified_targets(model.config.layout)[0]
    cases = {
        "literal": partial(literal_patched_pass, bridge, model.config.layout, prompt, target),
        OURS: partial(patched_pass, model, prompt, target),
    }
    timings = interleave(cases, settings.verify_rounds)
    measured = f"patched passes of {target.writer} by TransformerLens' hooks", timings["literal"]
    return ratio_row(SUBJECT, settings.verify_shape, measured, (OURS, timings[OURS]))


@torch.inference_mode()
def patched_pass(model: LeanModel, prompt: Tensor, target: Target) -> State:
    """What verify records of one target's patched passes, from a clean pass of its own."""
    accumulator = PatchedResidualAccumulator()
    view = PromptView(model, model.trace(prompt, keep_resid=True), 0, 0, 0, prompt[0], first=0)
    accumulator.update(WriterPrompt(view, target.writer, GroupWork((target,), 0)))
    return accumulator.export()


@torch.no_grad()
def literal_patched_pass(bridge: Any, layout: Layout, prompt: Tensor, target: Target) -> dict[WrittenRow, Tensor]:
    """What the patched passes of a target are measured by, at every token [batch, pos].

    Projection ratios onto the writer: of every state, clean and under each patch; of every component behind the erasers, clean,
    with the group patched, and the difference. And the loss of the next token, of which there is one less: clean, and by how
    much it rises under each patch.
    """
    clean = literal_clean(bridge, layout, prompt)
    writer = clean.vectors[target.writer]
    runs = {patch: _patched_vectors(bridge, layout, clean, prompt, target, patch) for patch in PATCHES}
    found = {WrittenRow(0, CLEAN, state): clean.vectors[state] for state in layout.states}
    found |= {WrittenRow(0, patch, state): run[state] for patch, run in runs.items() for state in layout.states}
    for label in later_components(layout, target):
        vector, patched = clean.vectors[label], runs[PATCHES[0]][label]
        found |= {WrittenRow(0, CLEAN, label): vector, WrittenRow(0, PATCHES[0], label): patched}
        found[WrittenRow(0, RESPONSE, label)] = vector - patched
    norm_sq, final = writer.square().sum(dim=-1), layout.states[-1]
    losses = {WrittenRow(0, CLEAN, LOSS): _loss(bridge, clean.vectors[final], prompt)}
    for patch, run in runs.items():
        losses[WrittenRow(0, patch, LOSS)] = _loss(bridge, run[final], prompt) - losses[WrittenRow(0, CLEAN, LOSS)]
    return {row: (vector * writer).sum(dim=-1) / norm_sq for row, vector in found.items()} | losses


def _loss(bridge: Any, final: Tensor, prompt: Tensor) -> Tensor:
    """Of the next token at every position that has one, in nats."""
    likely = bridge.unembed(bridge.ln_final(final)).log_softmax(dim=-1)
    return -likely[:, :-1].gather(-1, prompt[:, 1:, None]).squeeze(-1)


def _patched_vectors(
    bridge: Any, layout: Layout, clean: Clean, prompt: Tensor, target: Target, patch: str
) -> dict[str, Tensor]:
    """Every component and state of a run in which the erasing layers' values lack the writer."""
    cache: dict[str, Tensor] = {}
    names = vector_names(layout)

    def keep(name: str, value: Tensor, hook: Any) -> None:  # the hook's own name may be another one of the same place
        cache[name] = value
        if name == names[-1]:
            raise StopAtLayerException(value)

    edits = [
        (f"blocks.{layer}.attn.hook_v", _without(bridge, clean, target, layer, patch))
        for layer in sorted({layer_of(label) for label in target.erasers})
    ]
    hooks = [*edits, *((name, partial(keep, name)) for name in names)]
    bridge.run_with_hooks(prompt, return_type=None, fwd_hooks=hooks)
    return vectors_of(bridge, layout, cache)


def _without(bridge: Any, clean: Clean, target: Target, layer: int, patch: str) -> Any:
    """A hook that takes the writer from the values of a layer's heads: those of the group, or all."""
    output = clean.vectors[target.writer]
    read = (output - output.mean(dim=-1, keepdim=True)) / clean.scales[layer]
    group = [head_of(label) for label in target.erasers if layer_of(label) == layer]
    heads = group if patch == PATCHES[0] else list(range(bridge.W_V.shape[1]))
    values = torch.einsum("bpd,hde->bphe", read, bridge.W_V[layer, heads])

    def subtract(v: Tensor, hook: Any) -> Tensor:
        edited = v.clone()
        edited[:, :, heads] -= values
        return edited

    return subtract
