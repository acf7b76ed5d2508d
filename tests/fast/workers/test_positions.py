"""Measured positions: the same for everyone who asks, and evenly spread."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.positions import as_u64, count_positions, hash_u64, measured_positions, mix_u64


def test_mix_is_splitmix64() -> None:
    """The generator's published first outputs, from seed 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mix_u64(as_u64(1234567), np.arange(5, dtype=np.uint64)).tolist() == expected


def splitmix64(seed: int, index: int) -> int:
    """The generator in Python's integers."""
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@pytest.mark.parametrize(("seed", "prompt", "position"), [(0, 0, 0), (7, 300, 1023), (2**64 - 1, 2**40, 5)])
def test_hash_chains_it(seed: int, prompt: int, position: int) -> None:
    """Stored shards depend on this: what is measured must not change unnoticed."""
    expected = splitmix64(splitmix64(splitmix64(seed, 0), prompt), position)
    assert hash_u64(seed, prompt, position).item() == expected


@pytest.mark.parametrize("first_position", [False, True])
@pytest.mark.parametrize("n_positions", [1, 5, 31, None])
def test_positions_are_ascending_distinct_and_in_range(n_positions: int | None, first_position: bool) -> None:
    positions = measured_positions(3, 0, 10, 32, n_positions, first_position)
    n = count_positions(32, n_positions, first_position)
    assert n in (n_positions, 32 if first_position else 31)
    assert positions.shape == (10, n)
    assert positions.dtype == np.int64
    assert (np.diff(positions, axis=1) > 0).all()
    assert positions.min() >= (0 if first_position else 1)
    assert positions.max() <= 31
    assert n_positions is not None or set(positions[0]) == set(range(0 if first_position else 1, 32))


@pytest.mark.parametrize("first_position", [False, True])
def test_they_are_those_with_the_lowest_hashes(first_position: bool) -> None:
    positions, allowed = measured_positions(11, 40, 3, 64, 7, first_position), range(not first_position, 64)
    for row, prompt in zip(positions, range(40, 43), strict=True):
        lowest = sorted(allowed, key=lambda position, prompt=prompt: hash_u64(11, prompt, position).item())
        assert row.tolist() == sorted(lowest[:7])


def test_blocks_of_prompts_do_not_matter() -> None:
    whole = measured_positions(5, 0, 24, 100, 9)
    blocks = [measured_positions(5, first, n, 100, 9) for first, n in ((0, 1), (1, 7), (8, 16))]
    assert np.array_equal(np.concatenate(blocks), whole)


def test_fewer_positions_are_among_more() -> None:
    few, many = measured_positions(5, 0, 6, 100, 4), measured_positions(5, 0, 6, 100, 20)
    assert all(set(a) <= set(b) for a, b in zip(few.tolist(), many.tolist(), strict=True))


def test_seed_and_prompt_change_the_choice() -> None:
    assert not np.array_equal(measured_positions(0, 0, 4, 256, 16), measured_positions(1, 0, 4, 256, 16))
    assert len({tuple(row) for row in measured_positions(0, 0, 50, 256, 16).tolist()}) == 50


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**70 + 3])
def test_positions_are_uniform(seed: int) -> None:
    """Over 4000 prompts each of 64 positions is measured about 500 times: chi-squared has 63 degrees of freedom."""
    counts = np.bincount(measured_positions(seed, 0, 4000, 64, 8, True).ravel(), minlength=64)
    expected = 4000 * 8 / 64
    # Drawn without replacement, so the variance is smaller by (1 - 8/64) than a multinomial's.
    chi_squared = ((counts - expected) ** 2 / expected).sum() / (1 - 8 / 64)
    assert 30 < chi_squared < 115


def test_neighbouring_prompts_are_independent() -> None:
    """Two prompts share 8 * 8 / 64 = 1 position on average."""
    chosen = np.zeros((4000, 64))
    np.put_along_axis(chosen, measured_positions(0, 0, 4000, 64, 8, True), 1.0, axis=1)
    shared = (chosen[:-1] * chosen[1:]).sum(axis=1)
    assert shared.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("n_positions", "first_position", "most"), [(0, True, 32), (-1, True, 32), (33, True, 32), (32, False, 31)]
)
def test_impossible_counts_are_refused(n_positions: int, first_position: bool, most: int) -> None:
    with pytest.raises(UsageError, match=rf"--positions {n_positions} .* 1 to {most}"):
        measured_positions(0, 0, 1, 32, n_positions, first_position)
