"""What a sweep would cost, worked out before it is run."""

from __future__ import annotations

from typing import Any

from erasure_sweep.sweep.config import build_config
from erasure_sweep.sweep.estimate import forward_flops, work_of, worker_memory
from erasure_sweep.sweep.helper.tasks import total_costs
from erasure_sweep.sweep.plan import expected_stages
from erasure_sweep.workers.records import Numerics, Resolved
from tests.support.models.random_models import random_config

CPU = Numerics("cpu", "AVX2", "2.9.0", "MKL", "highest", "00000000")
SHAPE = random_config(4, 8, 64).to_json()


def model(n_prompts: int, shape: dict[str, Any] = SHAPE, n_params: int = 5) -> Resolved:
    return Resolved(
        name="m", spec="m", hash="aa", weights="/w", weights_bytes=10, architecture=shape, n_params=n_params,
        sketches=(20_000,) * 38, tokens="/t", corpus_fingerprint="cc", corpus_description="d", n_prompts=n_prompts,
        seq_len=64, lengths=((64, n_prompts),), verify_prompts=(n_prompts, n_prompts + 32), verify_fingerprint="vv",
    )  # fmt: skip


def test_shards_that_differ_in_their_prompts_alone_are_worked_out_once() -> None:
    found = {}
    for n_prompts in (80, 8000):
        of = model(n_prompts)
        config = build_config({"models": ["m"], "prompts": n_prompts, "seq_len": 64, "block_prompts": 8})
        tasks = [task for stage in expected_stages(config, of, CPU) for task in stage.tasks]
        found[n_prompts] = work_of(of, tasks)
        assert sum(n for _, _, n in found[n_prompts]) == len(tasks)
    few, many = found.values()
    assert len(many) < 2 * len(few)
    assert total_costs([few])[0].passes < total_costs([many])[0].passes / 20
    one_by_one = [(stage, size, 1) for stage, size, n in few for _ in range(n)]
    assert total_costs([few]) == total_costs([one_by_one])


def test_a_forward_pass_goes_through_the_experts_of_a_token_alone() -> None:
    mixed, dense = (
        random_config(4, 8, 64, d_mlp=width, gated_mlp=True, **rest)
        for width, rest in ((32, {"n_experts": 8, "experts_per_token": 2}), (64, {}))
    )
    sparse, whole = (forward_flops(model(8, each.to_json(), each.n_params)) for each in (mixed, dense))
    assert sparse == whole


def test_memory_of_a_model_of_eight_billion_weights() -> None:
    """Llama 3.1 8B's shape: 32 GB of float32 weights, staged and on the device; half of that in bfloat16.

    Its activations of a batch of 2,048 tokens, 32 layers of 4 · 4,096 and of 3 · 32 · 128 numbers: 7.7 GB.
    """
    shape = {"n_layers": 32, "d_model": 4096, "n_heads": 32, "d_head": 128}
    config = build_config({"models": ["m"], "seq_len": 256})
    half = build_config({"models": ["m"], "seq_len": 256, "dtype": "bfloat16"})
    whole, less = (worker_memory(each, (1,), 32 * 10**9, 256, shape) for each in (config, half))
    assert whole - less == 32 * 10**9
    assert 64e9 + 7.5e9 < whole < 64e9 + 9e9
