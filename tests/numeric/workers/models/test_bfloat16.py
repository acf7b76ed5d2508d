"""Models whose matrices are bfloat16: outputs add up to the stream, and tables are those of float32 but for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models import device_memory
from erasure_sweep.workers.models.files.weights_file import WeightsFile
from erasure_sweep.workers.models.forward import MATRICES, LeanModel
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from tests.support.models.random_models import KINDS, random_config, random_processed_weights, write_tl_directory
from tests.support.models.transformers_models import write_llama_directory
from tests.support.oracle.measuring import measure_tables
from tests.support.oracle.scan import forward

ROUNDING = 2.0**-8
"""Between neighbouring numbers of one size."""


def model_of(kind: str) -> tuple[LeanModel, dict[str, torch.Tensor]]:
    """A random model in bfloat16, and the weights that it keeps."""
    config = random_config(**{"n_layers": 3, "n_heads": 4, "d_model": 32} | KINDS[kind])
    weights = random_processed_weights(config, list(KINDS).index(kind))
    kept = {
        name: values.to(torch.bfloat16).to(values.dtype) if name in MATRICES else values
        for name, values in weights.items()
    }
    return LeanModel(config, weights, dtype=torch.bfloat16), kept


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_add_up_to_the_stream(kind: str) -> None:
    model, _ = model_of(kind)
    config, ids = model.config, torch.randint(model.config.d_vocab, (2, 17), generator=torch.Generator().manual_seed(5))
    trace = model.trace(ids, keep_resid=True)
    assert trace.resid_pre is not None and trace.resid_pre.dtype == torch.float32
    total = torch.stack([trace.embeddings(prompt) for prompt in range(len(ids))]) + trace.mlp_out.sum(dim=0)
    for layer in range(config.n_layers):
        total = total + torch.einsum("bphe,hed->bpd", trace.z[layer], model.w_o(layer))
        total = total + (model.b_o(layer) if config.attn_bias else 0)
    # Behind a norm z is divided by a scale once it is rounded, and rounded again.
    bound = 2 * ROUNDING if config.norm_behind else 1e-5
    torch.testing.assert_close(total, trace.resid_pre[-1], rtol=0, atol=bound * float(total.std()))


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_oracle_but_for_rounding(kind: str) -> None:
    model, kept = model_of(kind)
    ids = np.random.default_rng(3).integers(0, model.config.d_vocab, (1, 17))
    trace = model.trace(torch.from_numpy(ids), keep_resid=True)
    final = list(forward(model.config, kept, ids[0]).states.values())[-1]
    assert trace.resid_pre is not None
    off = trace.resid_pre[-1, 0].numpy() - final
    assert 0 < np.sqrt(np.mean(off**2)) < 4 * ROUNDING * np.std(final)  # experts differ where rounding chooses


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.nightly] * (kind not in ("Llama", "Gemma"))) for kind in KINDS]
)
def test_tables_are_those_of_float32_but_for_rounding(kind: str) -> None:
    model, kept = model_of(kind)
    tokens = np.random.default_rng(3).integers(0, model.config.d_vocab, (6, 19))
    rounded = measure_tables(model, tokens, first_position=False)
    exact = measure_tables(LeanModel(model.config, kept), tokens, first_position=False)
    for name, column in (("v_composition", "beta"), ("writers", "erased")):
        off = np.abs(rounded[name][column].to_numpy(float) - exact[name][column].to_numpy(float))
        assert 0 < np.nanmax(off) < ROUNDING / 4
    assert rounded["v_composition"]["eraser"].tolist() == exact["v_composition"]["eraser"].tolist()


class TestStaged:
    """Matrices staged in bfloat16, for a forward that is."""

    @pytest.mark.parametrize("form", ["native", "Llama"])
    def test_half_the_file_and_the_same_model(self, form: str, tmp_path: Path) -> None:
        model = write_tl_directory(tmp_path / "m", 1, n_layers=2, n_heads=2, d_model=24, d_vocab=300)
        if form == "Llama":
            model = write_llama_directory(tmp_path / "llama")
        whole = resolve_model(str(model), tmp_path / "whole")
        halved = resolve_model(str(model), tmp_path / "halved", halved=True)
        again = resolve_model(str(model), tmp_path / "whole", halved=True)  # of the whole ones that are there
        assert halved.hash == again.hash != whole.hash
        assert halved.weights.read_bytes() == again.weights.read_bytes()
        assert halved.weights.stat().st_size < 0.6 * whole.weights.stat().st_size
        assert [path.name for path in (tmp_path / "halved" / "models").iterdir()] == [halved.weights.name]
        rounded, staged = (load_model(each.weights, dtype=torch.bfloat16)[1] for each in (whole, halved))
        assert rounded.weights.keys() == staged.weights.keys()
        assert all(torch.equal(values, staged.weights[name]) for name, values in rounded.weights.items())
        ids = torch.randint(whole.config.d_vocab, (2, 9), generator=torch.Generator().manual_seed(1))
        assert torch.equal(rounded.logits(ids), staged.logits(ids))

    def test_is_not_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, staging = str(write_tl_directory(tmp_path / "m", 1)), tmp_path / "staging"
        first = resolve_model(model, staging, halved=True)
        for name in ("convert", "write_halved"):
            monkeypatch.setattr(f"erasure_sweep.workers.models.resolve_model.{name}", None)
        assert resolve_model(model, staging, halved=True) == first

    def test_a_model_that_would_compute_something_else_is_refused_before_rounding(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = str(write_tl_directory(tmp_path / "m", 1))
        monkeypatch.setattr(LeanModel, "logits", lambda self, ids: torch.zeros(*ids.shape, self.config.d_vocab))
        with pytest.raises(DataError, match="cannot be measured: the trace's logits differ"):
            resolve_model(model, tmp_path / "staging", halved=True)
        assert not list((tmp_path / "staging" / "models").iterdir())


def test_a_model_larger_than_the_device_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    WeightsFile(path, {"W_E": (3, 2**28)}, {}).close()  # of no model: reading it would be another error
    monkeypatch.setattr(device_memory, "device_memory", lambda _: 2**30)
    said = "the weights take 3.0 GiB in float32, and the machine has 1.0 GiB of memory: .*--dtype bfloat16 takes less"
    with pytest.raises(DataError, match=said):
        load_model(path)
    with pytest.raises(DataError, match=r"take 1\.5 GiB in bfloat16, and the machine has 1\.0 GiB[^;]*$"):
        load_model(path, dtype=torch.bfloat16)
    monkeypatch.setattr(device_memory, "device_memory", lambda _: 4 * 2**30)
    with pytest.raises(DataError, match="missing or damaged"):
        load_model(path)
