"""Models named by their hub names, against a loopback stand-in for the Hugging Face hub."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.hub import Hub, run_environment
from tests.random_models import write_hf_gpt2_directory, write_tl_directory
from workers.bridges import quiet
from workers.conversion import check_tokens
from workers.errors import DataError
from workers.models import load_model, resolve_model

ROOT = Path(__file__).parents[2]
GELU = "NeelNanda/GELU_1L512W_C4_Code"
ATTN_ONLY = "NeelNanda/Attn_Only_2L512W_C4_Code"
TOKENIZER = "NeelNanda/gpt-neox-tokenizer-digits"
MESSAGE_LIMIT_S = 30


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def cache(hub, monkeypatch, tmp_path):
    """The hub, seen from this process with a cache of its own."""
    hub.use_in_process(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def gelu(tmp_path):
    return write_tl_directory(tmp_path / "gelu", 1, weights_file="model_final.pth", tokenizer_name=TOKENIZER)


def refusal(spec: str, staging: Path) -> str:
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        resolve_model(spec, staging)
    assert time.monotonic() - start < MESSAGE_LIMIT_S, "the user must not wait for minutes"
    assert "\n" not in str(caught.value)
    assert not staging.exists()
    return str(caught.value)


def resolve_elsewhere(spec: str, staging: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Resolve in a process of its own, which reads the hub's variables from the environment."""
    code = (
        "import sys, pathlib; from workers.models import resolve_model; from workers.errors import SweepError\n"
        "try: print(resolve_model(sys.argv[1], pathlib.Path(sys.argv[2])).hash)\n"
        "except SweepError as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, spec, str(staging)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


class TestServed:
    def test_legacy_repository(self, hub, cache, gelu, tmp_path):
        repo = hub.add_model(GELU, gelu)
        resolved = resolve_model("gelu-1l", tmp_path / "staging")
        assert (resolved.name, resolved.tokenizer) == ("gelu-1l", TOKENIZER)
        assert resolved.hash == resolve_model(str(gelu), tmp_path / "other").hash
        fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
        assert fetched == [
            f"GET /{GELU}/resolve/{rev}/{f}" for rev, f in (("main", "config.json"), (repo.sha, "model_final.pth"))
        ]
        full = resolve_model(GELU, tmp_path / "staging")
        assert full == resolved._replace(spec=GELU)

    def test_agrees_with_transformer_lens_own_loader(self, hub, cache, tmp_path):
        directory = write_tl_directory(tmp_path / "m", 2, attn_only=True, weights_file="model_final.pth")
        hub.add_model(ATTN_ONLY, directory)
        config, model = load_model(resolve_model("attn-only-2l", tmp_path / "staging").weights)
        from transformer_lens.model_bridge import TransformerBridge

        tokens = check_tokens(config)
        with quiet(), torch.no_grad():
            bridge = TransformerBridge.boot_tl_legacy(ATTN_ONLY, device="cpu")
            bridge.enable_compatibility_mode(disable_warnings=True)
            expected = bridge(tokens, return_type="logits")
        torch.testing.assert_close(model.logits(tokens), expected, atol=1e-4, rtol=0)

    def test_gpt2(self, hub, cache, tmp_path):
        directory = write_hf_gpt2_directory(tmp_path / "m", 3)
        hub.add_model("gpt2", directory)
        resolved = resolve_model("gpt2", tmp_path / "staging")
        assert (resolved.name, resolved.tokenizer, resolved.config.act_fn) == ("gpt2", "gpt2", "gelu_new")
        assert resolved.hash == resolve_model(str(directory), tmp_path / "other").hash

    def test_dropped_connection_is_resumed(self, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu).faults["model_final.pth"] = "drop-once"
        assert resolve_model("gelu-1l", tmp_path / "staging").name == "gelu-1l"

    def test_other_repository_of_the_author(self, hub, cache, gelu, tmp_path):
        hub.add_model("NeelNanda/Another_Model", gelu)
        assert resolve_model("NeelNanda/Another_Model", tmp_path / "staging").name == "Another_Model"


class TestCached:
    def test_nothing_is_asked_again(self, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu)
        first = resolve_model("gelu-1l", tmp_path / "staging")
        hub.requests.clear()
        assert resolve_model("gelu-1l", tmp_path / "staging") == first
        assert hub.requests == []

    @pytest.mark.parametrize("offline", [False, True])
    def test_works_when_the_hub_is_gone(self, offline, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu)
        expected = resolve_model("gelu-1l", tmp_path / "staging").hash
        hub.stop()
        done = resolve_elsewhere("gelu-1l", tmp_path / "new", run_environment(hub, cache, offline))
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")

    def test_a_half_staged_repository_names_what_is_missing(self, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu).files.pop("model_final.pth")
        refusal("gelu-1l", tmp_path / "staging")
        hub.stop()
        assert f"cannot be reached for model_final.pth of {GELU}" in refusal("gelu-1l", tmp_path / "staging")


class TestRefused:
    """One line, soon, that names the file and what to do."""

    def test_unreachable(self, hub, cache, tmp_path):
        hub.stop()
        message = refusal("gelu-1l", tmp_path / "staging")
        assert message.startswith(f"{hub.url} cannot be reached for config.json of {GELU} (")
        assert f"`hf download {GELU} config.json model_final.pth`" in message
        assert message.endswith(f"copy it to {cache / 'hub'}, or give --model DIR")

    def test_offline(self, hub, cache, tmp_path):
        done = resolve_elsewhere("gpt2", tmp_path / "staging", run_environment(hub, cache, offline=True))
        assert done.returncode == 1
        assert done.stderr.startswith(
            "config.json of gpt2 is not in the Hugging Face cache and HF_HUB_OFFLINE is set: "
        )
        assert done.stderr.count("\n") == 1
        assert hub.requests == []

    def test_missing_repository(self, hub, cache, tmp_path):
        message = refusal("NeelNanda/No_Such_Model", tmp_path / "staging")
        assert message.startswith(f"{hub.url} has no repository NeelNanda/No_Such_Model, or it is private")

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("gated", f"{GELU} is gated: accept its terms on"),
            ("private", f"has no repository {GELU}, or it is private: check the name, or `hf auth login`"),
            ("broken", f"answers 503 for config.json of {GELU}: try later, or stage it"),
        ],
    )
    def test_refusing_repository(self, status, expected, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu).status = status
        assert expected in refusal("gelu-1l", tmp_path / "staging")

    def test_missing_file(self, hub, cache, gelu, tmp_path):
        hub.add_model(GELU, gelu, rename={"model_final.pth": "elsewhere.pth"})
        assert refusal("gelu-1l", tmp_path / "staging") == f"{GELU} on {hub.url} holds no model_final.pth"

    @pytest.mark.parametrize("fault", ["cut", "short"])
    def test_broken_download_then_success(self, fault, hub, cache, gelu, tmp_path):
        repo = hub.add_model(GELU, gelu)
        repo.faults["model_final.pth"] = fault
        message = refusal("gelu-1l", tmp_path / "staging")
        assert message.startswith(f"the download of model_final.pth of {GELU} broke off: run again (")
        repo.faults.clear()
        assert resolve_model("gelu-1l", tmp_path / "staging").name == "gelu-1l"

    def test_unsupported_model_of_the_author(self, hub, cache, tmp_path):
        directory = write_tl_directory(tmp_path / "m", weights_file="model_final.pth", overrides={"act_fn": "solu_ln"})
        hub.add_model("NeelNanda/SoLU_2L512W_C4_Code", directory)
        message = refusal("NeelNanda/SoLU_2L512W_C4_Code", tmp_path / "staging")
        assert message == "model SoLU_2L512W_C4_Code cannot be measured: it has the activation solu_ln"
