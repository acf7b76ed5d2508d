"""Which positions of a prompt are measured.

Position 0 is left out unless a sweep asks for it: in real models it carries a hundred times the power of others (an
attention sink), and would lead every sum over positions. Of the rest all are measured, or the N positions with the lowest
hashes of (seed, global prompt index, position). A hash, unlike a generator, has no state: the choice for a prompt is the
same for every writer, shard and stage, whatever the block that it is measured in.

The hash chains SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, Integer, UInt64
from numpy.typing import ArrayLike

from erasure_sweep.workers.errors import UsageError

PADDING = -1
"""What stands in a token array behind the last token of a prompt that is shorter than others: the model never sees it."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def mix_u64(seed: UInt64[np.ndarray, "..."], index: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Output number ``index`` of the SplitMix64 generator that starts at ``seed``; the two are broadcast."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what is meant
        x: UInt64[np.ndarray, "..."] = seed + (index + np.uint64(1)) * _GOLDEN
        for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
            x = (x ^ (x >> shift)) * factor
        return np.asarray(x ^ (x >> _SHIFTS[-1]))  # a scalar stays an array


def as_u64(values: int | ArrayLike) -> UInt64[np.ndarray, "..."]:
    """Integers modulo 2**64, so that negative and long seeds are seeds as well."""
    if isinstance(values, int):
        return np.array(values % 2**64, dtype=np.uint64)
    return np.asarray(values).astype(np.uint64)


def hash_u64(seed: int | ArrayLike, prompt: int | ArrayLike, position: int | ArrayLike) -> UInt64[np.ndarray, "..."]:
    """A hash of (seed, global prompt index, position); arrays are broadcast against each other."""
    of_prompt = mix_u64(mix_u64(as_u64(seed), as_u64(0)), as_u64(prompt))
    return mix_u64(of_prompt, as_u64(position))


def prompt_lengths(tokens: Integer[np.ndarray, "prompt pos"]) -> Int64[np.ndarray, "prompt"]:
    """How many tokens each prompt has."""
    return np.asarray((np.asarray(tokens) != PADDING).sum(axis=1), dtype=np.int64)


def count_positions(seq_len: int, n_positions: int | None, first_position: bool) -> int:
    """How many positions of a prompt are measured: as many as are asked for, or all where it has no more.

    Args:
        seq_len: positions in a prompt.
        n_positions: how many are asked for; ``None`` for all.
        first_position: whether position 0 is one of them.
    """
    every = seq_len - (not first_position)
    return every if n_positions is None else min(n_positions, every)


def measured_positions(
    seed: int, first_prompt: int, n_prompts: int, seq_len: int, n_positions: int | None, first_position: bool = False
) -> Int64[np.ndarray, "prompt measured"]:
    """The measured positions of a block of prompts, ascending within each prompt.

    Args:
        seed: the sweep's seed.
        first_prompt: index of the block's first prompt in the whole corpus.
        n_prompts: prompts in the block.
        seq_len: positions in a prompt.
        n_positions: how many of them are measured; ``None`` for all.
        first_position: whether position 0 is one that may be.

    Raises:
        UsageError: there are not so many.
    """
    first = 0 if first_position else 1
    check_n_positions(n_positions, seq_len, first_position)
    prompts = np.arange(first_prompt, first_prompt + n_prompts, dtype=np.uint64)
    hashes = hash_u64(seed, prompts[:, None], np.arange(first, seq_len, dtype=np.uint64))
    lowest = np.argsort(hashes, axis=1, kind="stable")[:, :n_positions]
    return np.sort(lowest, axis=1).astype(np.int64) + first


def check_n_positions(n_positions: int | None, seq_len: int, first_position: bool) -> None:
    """See that a prompt has so many positions to be measured.

    Raises:
        UsageError: it has fewer.
    """
    most = count_positions(seq_len, None, first_position)
    if n_positions is not None and not 1 <= n_positions <= most:
        left_out = "" if first_position else ", and position 0 is left out unless first_position is true"
        raise UsageError(
            f"--positions {n_positions} is not possible: give all, or 1 to {most} (prompts have {seq_len} tokens{left_out})"
        )
