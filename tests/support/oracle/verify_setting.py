"""What the oracle of verify starts from: clean runs of all prompts, what is measured, and who is compared with whom.

A *field* is a vector (or number) at every position of every prompt: one array [pos, ...] for each prompt. Statistics are
over *tokens*: a field at the measured positions, prompts behind one another.

- Prompts are cut in blocks of equal size; a last block of one prompt joins the block before it. A prompt's *partner* is
  the next prompt of its block, the first one for the last. Its *permutation* sorts the positions by their hash, position
  0 apart where it is left out.
- The *source* of a writer is its output, zero at position 0 unless that is measured: what is taken out or replaced.
- u_e,x[p] = Σ_j A_e[p, j] (centred δ[j] / scale_e[j]) W_V^e W_O^e is what head e of a group writes because x is in its value
  input, δ = x + what the group's heads of earlier layers write because of x.
- g = centred(u_a − u_b) / final scale, a and b the two most likely next tokens; the DLA of x is x·g.
- 95 % intervals: everything is worked out again without each prompt, and the values spread as Tukey's jackknife has it; none
  where fewer than two prompts count, or where no prompt makes a difference. That of a median follows from the share of
  tokens below it, its tokens known up to the bins of the sketches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import PADDING, hash_u64, measured_positions
from tests.support.oracle.dla import jackknife, top_two
from tests.support.oracle.scan import (
    NEGLIGIBLE,
    QUANTILES,
    Activations,
    Measured,
    as_numpy,
    forward,
    layer_of_head,
    quantile,
)
from tests.support.oracle.sublayers import centre, written_by
from tests.support.oracle.v_composition import resid_pre, source

Field = list[np.ndarray]
Scale = Callable[[float], float]
PERMUTED = 2**32
"""Added to positions before they are hashed, so that each use has hashes of its own."""
BIN = math.log(2.0) / 89.0


class Setting(NamedTuple):
    """Clean runs of the prompts of verify, and which of their positions are measured."""

    config: ModelConfig
    w: dict[str, np.ndarray]
    corpus: np.ndarray
    """Token ids of all prompts [prompt, pos]; verify measures on those from ``first_prompt`` on."""
    ids: list[np.ndarray]
    """Of those alone, each without what fills it up."""
    kept: list[np.ndarray]
    """The measured positions of each prompt."""
    blocks: list[list[int]]
    runs: list[Activations]
    seed: int
    first_prompt: int
    first: int
    """The first position at which a writer's output is a source."""

    @property
    def rows(self) -> range:
        return range(len(self.runs))

    def length(self, row: int) -> int:
        return len(self.ids[row])

    @property
    def stream(self) -> Measured:
        """Where things stand in the sum."""
        run = self.runs[0]
        return Measured(run.terms, run.terms | run.attention, run.states, run.last_term)

    def term(self, label: str) -> Field:
        return [run.terms[label] for run in self.runs]

    def source(self, label: str) -> Field:
        """What is taken out of a writer, replaced or propagated: its output from position ``first`` on."""
        return [source(run.terms[label], self.first == 0) for run in self.runs]

    def state(self, name: str) -> Field:
        return [run.states[name] for run in self.runs]

    def written(self, writer: str) -> Field:
        """The stream right after the writer's sublayer."""
        return self.state(self.stream.written_state(writer))

    def hashes(self, row: int, salt: int = 0) -> np.ndarray:
        """Hash of every position of a prompt."""
        return hash_u64(
            self.seed, self.first_prompt + row, np.arange(self.length(row), dtype=np.uint64) + np.uint64(salt)
        )

    def partner(self, row: int) -> int:
        block = next(block for block in self.blocks if row in block)
        return block[(block.index(row) + 1) % len(block)]

    def permutation(self, row: int) -> np.ndarray:
        moved = self.hashes(row, PERMUTED)[self.first :]
        return np.array([*range(self.first), *(self.first + np.argsort(moved, kind="stable"))])

    def from_partner(self, field: Field, permuted: bool) -> Field:
        """At each position what the partner has there, or where the prompt's permutation says."""
        taken = []
        for row in self.rows:
            places = self.permutation(row) if permuted else np.arange(self.length(row))
            taken.append(np.stack([self.at_partner(field, row, place) for place in places]))
        return taken

    def at_partner(self, field: Field, row: int, place: int) -> np.ndarray:
        """What a prompt's partner has at a position; in one that is shorter, its source positions again and again."""
        other = field[self.partner(row)]
        while place >= len(other):
            place -= len(other) - self.first
        return other[place]

    def v_composed_by_head(self, heads: Sequence[str], field: Field) -> dict[str, Field]:
        """What each head of a group writes because a field, with what earlier ones made of it, is in its values."""
        parts: dict[str, Field] = {head: [] for head in heads}
        for run, x in zip(self.runs, field, strict=True):
            left = x
            for layer in range(self.config.n_layers):
                seen, written = centre(self.config, left) / run.ln1_scales[layer][:, None], np.zeros_like(x)
                for head in heads:
                    if layer_of_head(head) == layer:
                        parts[head].append(written_by(self.config, self.w, head, run.patterns[head], seen))
                        written = written + parts[head][-1]
                left = left + written
        return parts

    def v_composed(self, heads: Sequence[str], field: Field) -> Field:
        """What a group writes together because a field is in its value inputs."""
        nothing = [np.zeros_like(x) for x in field]
        return added([nothing, *self.v_composed_by_head(heads, field).values()])

    def resid_pre(self, row: int, layer: int) -> np.ndarray:
        return resid_pre(self.runs[row], layer)

    def tokens(self, field: Field) -> np.ndarray:
        """A field at the measured tokens, [token, ...]."""
        return np.concatenate([values[kept] for values, kept in zip(field, self.kept, strict=True)])

    def block_of(self) -> np.ndarray:
        """Each measured token's block."""
        number = {row: b for b, block in enumerate(self.blocks) for row in block}
        return np.concatenate([np.full(len(self.kept[row]), number[row]) for row in self.rows])

    def positions(self) -> np.ndarray:
        return np.concatenate(self.kept)

    def prompts(self) -> np.ndarray:
        """Each measured token's row among the prompts."""
        return np.concatenate([np.full(len(self.kept[row]), row) for row in self.rows])

    def has_ratio(self, writer: str) -> np.ndarray:
        """Measured tokens at which the writer has a PR."""
        return is_written(self.tokens(self.term(writer)), self.tokens(self.written(writer)))

    def top_two(self) -> Field:
        """The two most likely next tokens, [pos, 2]."""
        return [np.array([top_two(logits.tolist()) for logits in run.logits]) for run in self.runs]

    def logit_directions(self) -> Field:
        """g."""
        u = self.w["W_U"]
        return [
            centre(self.config, (u[:, top[:, 0]] - u[:, top[:, 1]]).T) / run.final_scale[:, None]
            for run, top in zip(self.runs, self.top_two(), strict=True)
        ]


def arrange(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: int | None,
    *,
    block: int,
    seed: int,
    first_prompt: int,
    first_position: bool = True,
) -> Setting:
    """Run every prompt; arguments as ``tests.support.oracle.verify.verify_tables`` takes them."""
    corpus, w = np.asarray(tokens), as_numpy(weights)
    ids = [prompt[prompt != PADDING] for prompt in corpus[first_prompt:]]
    kept = []
    for row, prompt in enumerate(ids):
        fewer = None if positions is None or positions >= len(prompt) - (not first_position) else positions
        kept.append(measured_positions(seed, first_prompt + row, 1, len(prompt), fewer, first_position)[0])
    runs = [forward(config, w, prompt) for prompt in ids]
    return Setting(
        config, w, corpus, ids, kept, cut(len(ids), block), runs, seed, first_prompt, 0 if first_position else 1
    )


def cut(n_prompts: int, size: int) -> list[list[int]]:
    """Blocks of prompts; a last one of one prompt joins the one before it."""
    blocks = [list(range(start, min(start + size, n_prompts))) for start in range(0, n_prompts, size)]
    if len(blocks) > 1 and len(blocks[-1]) == 1:
        last = blocks.pop()
        blocks[-1] += last
    return blocks


def added(fields: Sequence[Field]) -> Field:
    """The sum of several fields."""
    return [np.sum(values, axis=0) for values in zip(*fields, strict=True)]


def is_written(vectors: np.ndarray, resid: np.ndarray) -> np.ndarray:
    """Where vectors [token, d_model] are not negligible beside the stream."""
    return (vectors**2).sum(axis=1) > NEGLIGIBLE * (resid**2).sum(axis=1)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of vectors [..., d_model], one by one."""
    return (a * b).sum(axis=-1)


def ratios(vectors: np.ndarray, onto: np.ndarray, where: np.ndarray) -> np.ndarray:
    """PR of vectors onto others, at the tokens where it is defined."""
    return dot(vectors[where], onto[where]) / dot(onto[where], onto[where])


def beta(vectors: np.ndarray, onto: np.ndarray) -> float:
    """β over all tokens; NaN onto what is zero everywhere."""
    power = float(dot(onto, onto).sum())
    return float(dot(vectors, onto).sum()) / power if power > 0.0 else math.nan


def quantiles(values: Sequence[float] | np.ndarray, prefix: str = "") -> dict[str, float]:
    """The quantiles of tables under their names; NaN where there are no values."""
    numbers = [float(value) for value in values]
    return {
        f"{prefix}{name}": quantile(numbers, fraction) if numbers else math.nan for name, fraction in QUANTILES.items()
    }


def interval(
    prompts: np.ndarray, statistic: Callable[[np.ndarray], float], to: Scale = float, back: Scale = float
) -> tuple[float, float]:
    """Jackknife interval of a statistic of tokens.

    Args:
        prompts: to which prompt each token belongs.
        statistic: of those tokens for which it is given ``True``.
        to, back: to the scale on which the interval is symmetric, and back.
    """
    every = sorted(set(prompts.tolist()))
    if len(every) < 2:
        return math.nan, math.nan
    value = to(statistic(np.ones(len(prompts), dtype=bool)))
    without = [to(statistic(prompts != prompt)) for prompt in every]
    reach = jackknife(without)
    return back(value - reach), back(value + reach)


def beta_interval(prompts: np.ndarray, vectors: np.ndarray, onto: np.ndarray) -> tuple[float, float]:
    """Interval of β; a prompt in which there is nothing to be projected onto does not count."""
    products, powers = dot(vectors, onto), dot(onto, onto)
    there = powers > 0.0
    products, powers = products[there], powers[there]
    return interval(prompts[there], lambda kept: float(products[kept].sum() / powers[kept].sum()))


def mean_interval(prompts: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Interval of a mean."""
    return interval(prompts, lambda kept: float(values[kept].mean()))


def median_interval(prompts: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Interval of a median: quantiles as far from the middle as the share of tokens below the median may be off."""
    if not len(values):
        return math.nan, math.nan
    t = np.round(np.sign(values) * np.log1p(np.abs(values)) / BIN) * BIN
    binned = np.sign(t) * np.expm1(np.abs(t))
    middle = float(np.median(binned))
    tied = np.isclose(binned, middle, rtol=1e-9, atol=0.0)
    below = np.where(tied, 0.5, binned < middle)
    low, high = interval(prompts, lambda kept: float(below[kept].mean()))
    reach = (high - low) / 2
    if math.isnan(reach):
        return math.nan, math.nan
    numbers = binned.tolist()
    return quantile(numbers, max(0.5 - reach, 0.0)), quantile(numbers, min(0.5 + reach, 1.0))


def named(prefix: str, ends: tuple[float, float]) -> dict[str, float]:
    """An interval's two columns."""
    return {f"{prefix}low": ends[0], f"{prefix}high": ends[1]}
