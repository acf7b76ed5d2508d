"""Broad erasers: what each head takes out of all that earlier components write, beside random directions.

A ranking of writers misses a head that takes a fifth out of nearly every earlier head. So every head has a row: onto how many
earlier writers its V-composed β lies below −τ, and their sum. What the same head takes out of random directions says whether
it erases what components wrote or shrinks whatever it reads.

A random direction has the covariance of the stream that the head reads: with a random sign for each measured token,

    x_k = Σ_p sign_k[p] (resid_pre[p] − mean)        β_k = mean_p Σ_j A[p, j] / scale[j] · (x_k W_V W_O)·x_k / |x_k|²

It is the same at every source token, where attention passes on most of it; writers that change from token to token can be
read at other tokens' values, and lose less. Sums over tokens are all that is kept, of the stream and of the attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.composition import query_chunks, written_pattern
from erasure_sweep.workers.measures.scan.products import TRACE, ProductReader, PromptProducts
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import ScanWork, State
from erasure_sweep.workers.tables.columns import Columns

N_DIRECTIONS = 32
"""A head that were no eraser would lie beyond every one of so many directions three times in a hundred."""
FEWEST = 3
"""Of how many earlier heads at least a broad eraser takes some part out."""
_SALT = 2**35
"""Apart from the hashes by which positions are drawn."""


def random_signs(
    seed: int, corpus_prompt: int, positions: Int[np.ndarray, "token"]
) -> Float[np.ndarray, "direction token"]:
    """The sign of each direction at some positions of a prompt: bits of a hash, so that they are the same in any shard."""
    bits = hash_u64(seed, corpus_prompt, positions.astype(np.uint64) + np.uint64(_SALT))
    chosen = (bits >> np.arange(N_DIRECTIONS, dtype=np.uint64)[:, None]) & np.uint64(1)
    return 1.0 - 2.0 * chosen.astype(np.float64)


class ErasersAccumulator:
    """Sums over one shard's tokens, of the streams that heads read and of what their attention passes on.

    They do not depend on writers: of several blocks of writers the first alone keeps them.
    """

    def __init__(self, reader: ProductReader) -> None:
        self.reader, config = reader, reader.model.config
        self.is_first = reader.terms[0] == 0
        zeros = torch.zeros(config.n_layers, N_DIRECTIONS + 1, config.d_model, dtype=torch.float64)
        self.sums = zeros.to(reader.model.device)
        """Of each layer's input, by direction, and last without signs; less the reference."""
        self.reference: Tensor | None = None
        """Mean input of each layer over the first prompt, taken out to keep rounding small."""
        self.passed = torch.zeros(config.n_layers, config.n_heads, dtype=torch.float64, device=reader.model.device)
        self.sign_sums = np.zeros(N_DIRECTIONS)
        self.n_tokens = 0

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Take in one prompt."""
        if not self.is_first:
            return
        trace, prompt = products.trace, products.prompt
        positions = trace.positions[prompt]
        signs = random_signs(self.reader.options.seed, products.corpus_prompt, positions.cpu().numpy())
        inputs = layer_inputs(self.reader.model, trace, prompt)
        if self.reference is None:
            self.reference = inputs.mean(dim=1, keepdim=True)
        weights = torch.from_numpy(np.concatenate([signs, np.ones((1, len(positions)))])).to(inputs)
        self.sums += torch.matmul(weights, inputs - self.reference)
        self.sign_sums += signs.sum(axis=1)
        self.n_tokens += len(positions)
        for layer in range(self.reader.model.config.n_layers):
            self.passed[layer] += passed_on(self.reader.model, trace, prompt, layer, self.reader.first)

    def export(self) -> State:
        """The sums; nothing where another block of writers keeps them."""
        if self.reference is None:
            return {}
        sums = self.sums.cpu().numpy()
        reference = self.reference.double().cpu().numpy()
        counts = np.append(self.sign_sums, self.n_tokens)
        return {
            "sums": sums + counts[:, None] * reference,
            "counts": counts,
            "passed": self.passed.cpu().numpy(),
        }


def layer_inputs(model: LeanModel, trace: Trace, prompt: int) -> Float[Tensor, "layer token d_model"]:
    """What each attention layer reads of the stream at a prompt's measured tokens."""
    positions = trace.positions[prompt]
    resid = trace.embeddings(prompt)[positions]
    inputs = [resid]
    for layer in range(model.config.n_layers - 1):
        resid = resid + model.attention_out(layer, trace.z[layer, prompt, positions].unsqueeze(0)).squeeze(0)
        if not model.config.attn_only:
            resid = resid + trace.mlp_out[layer, prompt, positions]
        inputs.append(resid)
    return torch.stack(inputs)


def passed_on(model: LeanModel, trace: Trace, prompt: int, layer: int, first: int) -> Float[Tensor, "head"]:
    """What a layer's heads pass on of a value that is the same from position ``first`` on: Σ over measured tokens."""
    inverse = trace.ln1_scale[layer, prompt].reciprocal()
    inverse[:first] = 0.0
    positions = trace.positions[prompt]
    total = inverse.new_zeros(model.config.n_heads, dtype=torch.float64)
    for tokens, limit in query_chunks(positions, model.config.n_heads * len(inverse)):
        pattern = written_pattern(model, trace, prompt, layer, positions[tokens], limit)
        total += (pattern @ inverse[:limit]).sum(dim=1)
    return total


class Erasers(Measure[ScanWork, ProductReader, PromptProducts]):
    """A row for each head: what it takes out of earlier writers, beside random directions."""

    stage, name = "scan", "erasers"
    needs = (TRACE,)
    tables = ("erasers",)

    def start(self, shard: ProductReader) -> ErasersAccumulator:
        """Empty sums."""
        return ErasersAccumulator(shard)

    def merge(self, block: Block[ScanWork], states: Iterable[State]) -> State:
        """Add up."""
        total: State = {}
        for state in states:
            total = {name: total[name] + state[name] for name in state} if total else dict(state)
        return total

    def columns(self, block: Block[ScanWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """What heads take out of random directions; what they take out of writers waits for the pairs of all blocks."""
        state = states[self.name]
        if not state:
            return {}
        betas = random_betas(block.model, state)
        columns: Columns = {"eraser": np.array(block.layout.heads, dtype=object)}
        columns |= {"random_mean": betas.mean(axis=0), "random_low": betas.min(axis=0)}
        return {"erasers": columns | {"random_taken": (betas < -setting.tau).mean(axis=0)}}

    def complete(self, tables: Mapping[str, Columns], setting: Setting) -> None:
        """Fill in what heads take out of earlier writers."""
        if "erasers" in tables:
            rows = tables["erasers"]
            rows |= of_writers(tables["v_composition"], rows["eraser"].tolist(), setting.tau)
            rows["broad"] = (
                (rows["heads_taken"] >= FEWEST)
                & (2 * rows["heads_taken"] >= rows["heads"])
                & (rows["head_median"] < rows["random_low"])
            )

    def cost(self, size: ShardSize) -> Cost:
        """Patterns once more, and the sums of the streams, by the first block of writers."""
        assert isinstance(size.work, ScanWork)
        if size.work.writers.start:
            return Cost()
        n_layers, d_model = size.shape["n_layers"], size.shape["d_model"]
        per_token = n_layers * d_model * (size.seq_len + d_model + N_DIRECTIONS)
        stored = 8 * n_layers * d_model * (N_DIRECTIONS + 1)
        return Cost(flops=2 * size.n_tokens * per_token, stored_bytes=stored)


def random_betas(model: LeanModel, state: State) -> Float[np.ndarray, "direction head"]:
    """β of what every head writes because it reads each random direction, heads in the layout's order."""
    counts, n_tokens = state["counts"][:-1], state["counts"][-1]
    means = state["sums"][:, -1:] / n_tokens
    directions = torch.from_numpy(state["sums"][:, :-1] - counts[:, None] * means)
    passed = torch.from_numpy(state["passed"] / n_tokens)
    betas = []
    for layer, of_layer in enumerate(directions):
        values = torch.einsum("kd,dhe->khe", of_layer, model.w_v(layer).double().cpu())
        back = torch.einsum("kd,hed->khe", of_layer, model.w_o(layer).double().cpu())
        power = of_layer.square().sum(dim=1, keepdim=True)
        betas.append(passed[layer] * (values * back).sum(dim=2) / power)
    found: np.ndarray = torch.cat(betas, dim=1).numpy()
    return found


def of_writers(pairs: Columns, erasers: list[str], tau: float) -> Columns:
    """Columns of ``erasers`` on earlier writers, from all pairs; NaN where there is no number to make one of."""
    writers = list(dict.fromkeys(pairs["writer"].tolist()))
    row_of, column_of = ({label: index for index, label in enumerate(labels)} for labels in (writers, erasers))
    rows, columns = (
        np.array([index.get(label, -1) for label in pairs[name].tolist()])
        for name, index in (("writer", row_of), ("eraser", column_of))
    )
    betas = np.full((len(writers), len(erasers)), np.nan)
    betas[rows[columns >= 0], columns[columns >= 0]] = pairs["beta"][columns >= 0]
    of_heads = betas[[is_head(writer) for writer in writers]]
    taken = np.where(betas < -tau, betas, np.nan)
    counts = {
        "writers": np.isfinite(betas),
        "writers_taken": np.isfinite(taken),
        "heads": np.isfinite(of_heads),
        "heads_taken": of_heads < -tau,
    }
    found: Columns = {name: which.sum(axis=0) for name, which in counts.items()}
    found["beta_sum"] = np.nansum(taken, axis=0)
    found["beta_mean"] = found["beta_sum"] / np.where(found["writers_taken"] > 0, found["writers_taken"], np.nan)
    found["head_median"], some = np.full(len(erasers), np.nan), found["heads"] > 0
    found["head_median"][some] = np.nanmedian(of_heads[:, some], axis=0)
    return found
