"""Which share of a GPU a model asks for."""

from __future__ import annotations

from typing import Any

import pytest

from erasure_sweep.sweep.config import build_config
from erasure_sweep.sweep.execution import choose_executor
from erasure_sweep.sweep.execution.choose_executor import MeasuringPlace
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import Numerics, Resolved

GIB = 2**30


def model(weights_gib: float, seq_len: int = 256, n_layers: int = 4, d_model: int = 512) -> Resolved:
    shape = {"n_layers": n_layers, "d_model": d_model, "n_heads": 8, "d_head": d_model // 8}
    return Resolved(
        "m",
        "m",
        "h",
        "w",
        int(weights_gib * GIB),
        shape,
        0,
        (1,) * 10,
        "t",
        "c",
        "corpus",
        n_prompts=8,
        seq_len=seq_len,
        lengths=((seq_len, 8),),
    )


def share(of: Resolved, device: str = "cuda", **config: Any) -> float:
    return MeasuringPlace(build_config({"models": ["m"], **config}), device, None).gpus_for(of)


@pytest.mark.parametrize(
    ("weights_gib", "memory_gib", "expected"),
    [
        (0.2, 16, 0.25),
        (1.6, 16, 0.25),  # 3.2 GiB twice over, torch's half, little else: below 4
        (1.8, 16, 0.5),
        (3.6, 16, 0.5),
        (3.8, 16, 1.0),
        (7.0, 16, 1.0),
        (60.0, 16, 1.0),  # it fits nowhere, which shows when it is tried
        (7.0, 80, 0.25),
        (0.2, 1.5, 1.0),
    ],
)
def test_the_smallest_share_that_its_memory_fits_into(weights_gib: float, memory_gib: float, expected: float):
    assert share(model(weights_gib), gpu_memory_gib=memory_gib) == expected


def test_activations_count_at_the_batch_of_a_gpu():
    """8 prompts of 1,024 tokens by 24 layers of 1,024: 4 · 8192 · 1024 · 180 bytes are 5.6 GiB; a CPU's two are 1.4."""
    wide = model(0.2, seq_len=1024, n_layers=24, d_model=1024)
    assert share(wide, seq_len=1024) == 0.5
    assert share(wide, seq_len=1024, batch=2) == 0.25


def test_weights_in_bfloat16_take_half_and_in_float64_twice():
    assert [share(model(3.0), dtype=dtype) for dtype in ("bfloat16", "float32", "float64")] == [0.25, 0.5, 1.0]


def test_a_number_is_taken_as_it_is_and_a_cpu_needs_none():
    assert share(model(0.2), gpus_per_worker=0.4) == 0.4
    assert share(model(0.2), device="cpu") == 0.0
    assert share(model(0.2), device="cpu", gpus_per_worker=0.4) == 0.0


def test_ray_of_this_machine_is_meant_whatever_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def note(address: str | None, cpus: int | None) -> None:
        asked.append(address)
        raise SweepError("far enough")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(choose_executor, "connect", note)
    config = build_config({"models": ["m"], "workers": 1, "ray_address": "local"})
    with pytest.raises(SweepError, match="far enough"):
        MeasuringPlace(config, "cpu", None).executor(Numerics("cpu"), None, print)
    assert asked == ["local"]
