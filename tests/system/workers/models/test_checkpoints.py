"""Training checkpoints on the hub, against a loopback stand-in: as files of a repository and as its revisions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from erasure_sweep.workers.errors import DataError, UsageError
from erasure_sweep.workers.models.catalog import locate
from erasure_sweep.workers.models.checkpoints import expand, find_training
from erasure_sweep.workers.models.processing.bridge import quiet
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from tests.support.models.random_models import (
    gpt2_state_dict,
    random_config,
    tl_state_dict,
    write_hf_gpt2_directory,
    write_tl_directory,
)
from tests.support.servers.hub import Hub, Repo, Served

GELU = "NeelNanda/GELU_2L512W_C4_Code"
SHAPE = {"n_layers": 2, "n_heads": 2, "d_model": 16, "n_ctx": 32, "d_vocab": 41}
STEPS = (0, 10, 200, 3000)


def torch_file(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def add_gelu(hub: Hub, folder: Path, labels: tuple[int, ...] = STEPS, **config: object) -> Repo:
    """A legacy repository whose checkpoint of each label was drawn with the label as seed, in half precision."""
    directory = write_tl_directory(folder, 7, weights_file="model_final.pth", overrides=config, **SHAPE)
    repo = hub.add_model(GELU, directory)
    for label in labels:
        state = {name: tensor.half() for name, tensor in tl_state_dict(random_config(**SHAPE), label % 1000).items()}
        repo.files[f"checkpoints/GELU_2L_{label:012d}.pth"] = torch_file(state)
    return repo


def specs(*points: int) -> list[str]:
    return [f"gelu-2l@{point}" for point in points]


def refusal(spec: str, staging: Path, kind: type[Exception] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        [resolve_model(one, staging) for one in expand(spec, str(staging))]
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFiles:
    @pytest.mark.parametrize("labels", [STEPS, (2**31, 2**32, 2**33)], ids=["steps", "tokens"])
    def test_agree_with_transformer_lens_own_loader(self, labels, hub, cache, tmp_path):
        add_gelu(hub, tmp_path / "m", labels, act_fn="gelu_new")
        found = resolve_model(f"gelu-2l@{labels[1]}", tmp_path / "staging")
        config, model = load_model(found.weights)
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.tools.model_registry.checkpoints import get_checkpoint_labels

        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            bridge = TransformerBridge.boot_tl_legacy(GELU, checkpoint_value=labels[1], device="cpu")
            bridge.enable_compatibility_mode(disable_warnings=True)
            expected = bridge(tokens, return_type="logits")
        torch.testing.assert_close(model.logits(tokens), expected, atol=1e-4, rtol=0)
        known, kind = get_checkpoint_labels(GELU)
        checkpoints = find_training(locate(GELU)).checkpoints
        assert [checkpoint.label for checkpoint in checkpoints] == known
        assert [(c.steps if kind == "step" else c.tokens) for c in checkpoints] == known

    def test_only_the_named_one_is_fetched(self, hub, cache, tmp_path):
        repo = add_gelu(hub, tmp_path / "m", tokens_per_step=64, max_tokens=640_000)
        found = resolve_model("gelu-2l@12800", tmp_path / "staging")
        assert (found.name, found.base, found.training_tokens, found.training_steps) == (
            "gelu-2l@12800", "gelu-2l", 12800, 200,
        )  # fmt: skip
        weights = [name for (_, name), served in hub.served.items() if served.transfers and name.endswith(".pth")]
        assert weights == ["checkpoints/GELU_2L_000000000200.pth"]
        same = write_tl_directory(
            tmp_path / "same",
            state={k: v.half() for k, v in tl_state_dict(random_config(**SHAPE), 200).items()},
            **SHAPE,
        )
        assert resolve_model(str(same), tmp_path / "staging").hash == found.hash
        final = resolve_model("gelu-2l", tmp_path / "staging")
        assert (final.training_tokens, final.training_steps) == (640_000, 10_000)
        assert final.hash != found.hash
        assert len(repo.files) == 6

    def test_all_and_log(self, hub, cache, tmp_path):
        add_gelu(hub, tmp_path / "m", tokens_per_step=64, max_tokens=640_000)
        staging = str(tmp_path / "staging")
        assert list(expand("gelu-2l@all", staging)) == [*specs(0, 640, 12800, 192000), "gelu-2l"]
        assert list(expand("gelu-2l@log:3", staging)) == [*specs(640, 12800), "gelu-2l"]
        assert list(expand(f"{GELU}@log:1", staging)) == [GELU]
        assert not [name for (_, name), served in hub.served.items() if name.endswith(".pth") and served.transfers]
        assert [resolve_model(spec, tmp_path / "staging").name for spec in specs(640)] == specs(640)

    def test_without_a_log_labels_are_steps(self, hub, cache, tmp_path):
        add_gelu(hub, tmp_path / "m")
        assert list(expand("gelu-2l@all", str(tmp_path / "staging"))) == specs(*STEPS)
        found = resolve_model("gelu-2l@-1", tmp_path / "staging")
        assert (found.name, found.training_tokens, found.training_steps) == ("gelu-2l@3000", None, 3000)

    def test_the_log_is_read(self, hub, cache, tmp_path):
        repo = add_gelu(hub, tmp_path / "m")
        log = {"settings": {"tokens_per_step": 8}, "log": [{"step": 4000, "tokens": 32000}]}
        repo.files["training_log.json"] = json.dumps(log).encode()
        assert list(expand("gelu-2l@all", str(tmp_path / "staging"))) == [*specs(0, 80, 1600, 24000), "gelu-2l"]
        final = resolve_model("gelu-2l", tmp_path / "staging")
        assert (final.training_tokens, final.training_steps) == (32000, 4000)

    def test_unknown_points(self, hub, cache, tmp_path):
        add_gelu(hub, tmp_path / "m")
        assert refusal("gelu-2l@12", tmp_path / "staging") == (
            "gelu-2l@12: there is no such checkpoint; gelu-2l has checkpoints at 0, 10, 200, 3000 steps"
        )
        assert "give a count of tokens, a label, an index, all or log:N" in refusal(
            "gelu-2l@step10", tmp_path / "staging"
        )
        bare = write_tl_directory(tmp_path / "bare", weights_file="model_final.pth", **SHAPE)
        hub.add_model("NeelNanda/Attn_Only_2L512W_C4_Code", bare)
        assert "attn-only-2l has no checkpoints" in refusal("attn-only-2l@all", tmp_path / "staging")


class TestRemembered:
    def test_listing_and_checkpoints_without_a_hub(self, hub, cache, tmp_path, monkeypatch):
        add_gelu(hub, tmp_path / "m", tokens_per_step=64)
        staging = tmp_path / "staging"
        staged = [resolve_model(spec, staging) for spec in expand("gelu-2l@all", str(staging))]
        hub.stop()
        hub.use_in_process(monkeypatch, tmp_path / "empty")
        again = [resolve_model(spec, staging) for spec in expand("gelu-2l@all", str(staging))]
        assert again == staged
        assert expand("gelu-2l@log:2", str(staging)) == (staged[1].spec, staged[3].spec)
        for spec in ("gelu-2l@-1", "gelu-2l@3000", f"{GELU}@192000"):
            assert resolve_model(spec, staging) == staged[3]._replace(spec=spec)
        assert not (tmp_path / "empty").exists()

    def test_new_checkpoints_are_seen_when_asked_for(self, hub, cache, tmp_path):
        repo = add_gelu(hub, tmp_path / "m")
        staging = str(tmp_path / "staging")
        expand("gelu-2l@all", staging)
        repo.files["checkpoints/GELU_2L_000000005000.pth"] = torch_file(tl_state_dict(random_config(**SHAPE), 5))
        assert list(expand("gelu-2l@all", staging)) == specs(*STEPS)
        assert list(expand("gelu-2l@all", staging, refresh=True)) == specs(*STEPS, 5000)
        assert resolve_model("gelu-2l@5000", tmp_path / "staging").training_steps == 5000

    def test_repository_that_was_fetched_by_other_means(self, hub, cache, tmp_path):
        """A snapshot in the cache is a listing, where the hub cannot be asked for one."""
        add_gelu(hub, tmp_path / "m")
        expected = resolve_model("gelu-2l@200", tmp_path / "staging")
        hub.stop()
        assert resolve_model("gelu-2l@200", tmp_path / "elsewhere").hash == expected.hash

    @pytest.mark.parametrize("spec", ["gelu-2l@all", "gelu-2l@log:2", "gelu-2l@-1", "gelu-2l@1", "gelu-2l@3000"])
    def test_part_of_a_listing_is_not_taken_for_all_of_it(self, spec, hub, cache, tmp_path):
        """Which is the last, or how many there are, a cache that holds two of four does not say."""
        add_gelu(hub, tmp_path / "m")
        for point in (0, 10):
            resolve_model(f"gelu-2l@{point}", tmp_path / "staging")
        hub.stop()
        message = refusal(spec, tmp_path / "elsewhere", DataError)
        assert message.startswith(f"{hub.url} cannot be reached for the list of files of {GELU}")

    def test_unreachable(self, hub, cache, tmp_path):
        hub.stop()
        message = refusal("gelu-2l@all", tmp_path / "staging", DataError)
        assert message.startswith(f"{hub.url} cannot be reached for config.json of {GELU}")


class TestRevisions:
    @pytest.fixture
    def gpt2(self, hub, tmp_path):
        """Three stages of a training: a branch, a tag and the branch main."""
        shape = {"n_layers": 2, "n_heads": 2, "d_model": 16, "n_ctx": 32, "d_vocab": 41}
        repo = hub.add_model("gpt2", write_hf_gpt2_directory(tmp_path / "main", 1, **shape))
        for seed, revision in ((2, "step100"), (3, "checkpoint-2000"), (4, "v1.0")):
            made = write_hf_gpt2_directory(tmp_path / revision, seed, **shape)
            repo.revisions[revision] = {path.name: path.read_bytes() for path in made.iterdir()}
        return repo

    @pytest.mark.parametrize(("revision", "steps"), [("step100", 100), ("checkpoint-2000", 2000), ("v1.0", None)])
    def test_branches_and_tags(self, revision, steps, gpt2, hub, cache, tmp_path):
        found = resolve_model(f"gpt2@{revision}", tmp_path / "staging")
        assert (found.name, found.base) == (f"gpt2@{revision}", "gpt2")
        assert (found.training_tokens, found.training_steps) == (None, steps)
        assert found.hash == resolve_model(str(tmp_path / revision), tmp_path / "other").hash
        assert hub.served["gpt2", "model.safetensors"] == Served(len(gpt2.files["model.safetensors"]), 1)
        config, model = load_model(found.weights)
        from transformers import AutoModelForCausalLM

        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(tmp_path / revision).eval()(tokens).logits
        torch.testing.assert_close(model.logits(tokens).log_softmax(-1), expected.log_softmax(-1), atol=2e-4, rtol=0)

    def test_commit_of_a_branch(self, gpt2, hub, cache, tmp_path):
        commit = gpt2.sha_of("step100")
        by_branch, by_commit = (resolve_model(f"gpt2@{name}", tmp_path / "staging") for name in ("step100", commit))
        assert by_commit.weights == by_branch.weights
        assert (by_commit.name, by_commit.training_steps) == (f"gpt2@{commit}", None)

    def test_alias_of_the_base(self, gpt2, hub, cache, tmp_path):
        first = resolve_model("gpt2@step100", tmp_path / "staging")
        assert resolve_model("gpt2-small@step100", tmp_path / "staging") == first._replace(spec="gpt2-small@step100")

    @pytest.mark.parametrize("which", ["all", "log:3"])
    def test_they_cannot_be_listed(self, which, gpt2, hub, cache, tmp_path):
        message = refusal(f"gpt2@{which}", tmp_path / "staging")
        assert message == (
            f"gpt2@{which}: its checkpoints are revisions of gpt2: look them up on the hub and list them, gpt2@REVISION "
            "for each"
        )

    def test_unknown_revision(self, gpt2, hub, cache, tmp_path):
        message = refusal("gpt2@step101", tmp_path / "staging", DataError)
        assert message == f"gpt2 on {hub.url} has no revision step101"

    def test_branch_that_moves_on(self, gpt2, hub, cache, tmp_path):
        first = resolve_model("gpt2@step100", tmp_path / "staging")
        state = gpt2_state_dict(random_config(act_fn="gelu_new", **SHAPE), 9)
        gpt2.revisions["step100"] = {
            "config.json": gpt2.files["config.json"],
            "pytorch_model.bin": torch_file(state),
        }
        assert resolve_model("gpt2@step100", tmp_path / "staging") == first
        moved = resolve_model("gpt2@step100", tmp_path / "staging", refresh=True)
        assert moved.hash != first.hash
        assert resolve_model("gpt2@step100", tmp_path / "staging") == moved
