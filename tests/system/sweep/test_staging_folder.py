"""The staging folder: enough to measure where there is no hub, shared by processes, made anew where it is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.known_names import is_staged
from erasure_sweep.workers.models.resolve_model import resolve_model
from erasure_sweep.workers.models.tokenizer import load_tokenizer, stage_tokenizer
from tests.support.corpus_requests import write_tokenizer
from tests.support.models.random_models import write_hf_gpt2_directory, write_tl_directory
from tests.support.paths import ROOT
from tests.support.servers.hub import Hub, Served, run_environment

GELU, TOKENIZER = "NeelNanda/GELU_1L512W_C4_Code", "NeelNanda/gpt-neox-tokenizer-digits"
SPECS = ("gelu-1l", "gpt2", "gpt2@step10")
DEAD_HUB = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
RESOLVE = """
import sys, pathlib
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.models.resolve_model import resolve_model
from erasure_sweep.workers.models.tokenizer import load_tokenizer

try:
    for spec in sys.argv[2:]:
        model = resolve_model(spec, pathlib.Path(sys.argv[1]))
        print(model.name, model.hash, load_tokenizer(model.tokenizer).fingerprint)
except SweepError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub(tmp_path):
    """A legacy model with its tokenizer's repository, and a GPT-2 with one of its own and an earlier revision."""
    with Hub() as server:
        legacy = write_tl_directory(tmp_path / "gelu", 1, weights_file="model_final.pth", tokenizer_name=TOKENIZER)
        server.add_model(GELU, legacy)
        server.add_model(TOKENIZER, Path(write_tokenizer(tmp_path / "tokenizer")))
        write_tokenizer(tmp_path / "gpt2", ("<|endoftext|>",))
        gpt2 = server.add_model("gpt2", write_hf_gpt2_directory(tmp_path / "gpt2", 2))
        earlier = write_hf_gpt2_directory(tmp_path / "earlier", 3)
        gpt2.revisions["step10"] = {path.name: path.read_bytes() for path in earlier.iterdir()}
        yield server


@pytest.fixture
def staging(tmp_path):
    return tmp_path / "staging"


def stage(staging: Path, specs: Sequence[str] = SPECS) -> list[str]:
    """Stage models in this process; what ``RESOLVE`` prints of them."""
    models = [resolve_model(spec, staging) for spec in specs]
    return [f"{model.name} {model.hash} {load_tokenizer(model.tokenizer).fingerprint}" for model in models]


def start(staging: Path, environment: dict[str, str], specs: Sequence[str] = SPECS) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RESOLVE, str(staging), *specs]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    out, error = process.communicate()
    return process.returncode, out.splitlines(), error


class TestAlone:
    """The staging folder without a hub and without anything in the Hugging Face cache."""

    @pytest.mark.parametrize(
        "offline", [True, pytest.param(False, marks=pytest.mark.nightly)], ids=["HF_HUB_OFFLINE", "dead hub"]
    )
    def test_a_copied_folder_is_enough(self, offline, hub, cache, staging, tmp_path):
        expected = stage(staging)
        elsewhere = shutil.copytree(staging, tmp_path / "another machine" / "folder")
        shutil.rmtree(staging)
        hub.requests.clear()
        if not offline:
            hub.stop()
        environment = run_environment(hub, tmp_path / "empty", offline)
        done = finish(start(elsewhere, environment))
        assert done == (0, expected, "")
        assert hub.requests == []
        assert not (tmp_path / "empty" / "hub").exists()

    def test_nothing_is_asked_again(self, hub, cache, staging):
        models = [resolve_model(spec, staging) for spec in SPECS]
        hub.requests.clear()
        assert [resolve_model(spec, staging) for spec in SPECS] == models
        assert hub.requests == []

    def test_what_it_holds_says_where_it_came_from_and_no_path(self, hub, cache, staging, tmp_path):
        stage(staging)
        records = [json.loads(path.read_text()) for path in (staging / "names").iterdir()]
        gelu = next(record for record in records if record.get("spec") == "gelu-1l")
        assert gelu["origin"] == f"{GELU}@{hub.repos['models', GELU].sha}"
        assert str(tmp_path) not in json.dumps(records)

    def test_directory_with_a_tokenizer_of_the_hub(self, hub, cache, staging, tmp_path, monkeypatch):
        first = resolve_model(str(tmp_path / "gelu"), staging)
        hub.stop()
        hub.use_in_process(monkeypatch, tmp_path / "empty")
        assert resolve_model(str(tmp_path / "gelu"), staging) == first
        assert Path(first.tokenizer).is_relative_to(staging / "tokenizers")

    def test_is_staged(self, hub, cache, staging):
        assert [is_staged(spec, staging) for spec in (*SPECS, "toy-gelu-1l", GELU)] == [False] * 3 + [True, False]
        stage(staging)
        hub.requests.clear()
        assert [is_staged(spec, staging) for spec in (*SPECS, "gpt2-xl", GELU)] == [True] * 3 + [False, True]
        assert hub.requests == []
        shutil.rmtree(staging / "tokenizers")
        assert not is_staged("gelu-1l", staging)

    def test_other_processing_makes_it_anew(self, hub, cache, staging, monkeypatch):
        first = resolve_model("gpt2", staging)
        monkeypatch.setattr("erasure_sweep.workers.models.known_names.PROCESSING_VERSION", "another")
        assert not is_staged("gpt2", staging)
        second = resolve_model("gpt2", staging)
        assert second.weights != first.weights
        assert second.hash == first.hash


class TestTokenizers:
    def test_staged_beside_what_names_its_ends(self, hub, cache, staging):
        path = Path(resolve_model("gelu-1l", staging).tokenizer)
        assert path.parent.parent == staging / "tokenizers"
        files = hub.repos["models", TOKENIZER].files
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == files

    def test_the_same_as_on_the_hub(self, hub, cache, staging):
        from_hub, staged = load_tokenizer(TOKENIZER), load_tokenizer(stage_tokenizer(TOKENIZER, staging))
        assert staged.fingerprint == from_hub.fingerprint
        assert (staged.bos_id, staged.separator_id) == (from_hub.bos_id, from_hub.separator_id) == (0, 1)
        assert staged.encode_batch(["a <|EOS|> b"]) == from_hub.encode_batch(["a <|EOS|> b"])

    def test_vocabulary_and_merges_without_a_tokenizer_json(self, hub, cache, staging, tmp_path):
        backend = json.loads(Tokenizer.from_file(str(tmp_path / "gpt2" / "tokenizer.json")).to_str())
        repo = hub.add_model("someone/old", write_hf_gpt2_directory(tmp_path / "old", 5))
        repo.files |= {"vocab.json": json.dumps(backend["model"]["vocab"]).encode(), "merges.txt": b"#version: 0.2\n"}
        from_hub = load_tokenizer("someone/old")
        staged = resolve_model("someone/old", staging).tokenizer
        hub.stop()
        assert load_tokenizer(staged).fingerprint == from_hub.fingerprint
        assert load_tokenizer(staged).encode_batch(["stream"]) == from_hub.encode_batch(["stream"])

    def test_a_revision_has_its_own_or_that_of_main(self, hub, cache, staging, tmp_path):
        main = load_tokenizer(resolve_model("gpt2", staging).tokenizer)
        assert load_tokenizer(resolve_model("gpt2@step10", staging).tokenizer).fingerprint == main.fingerprint
        other = Path(write_tokenizer(tmp_path / "other", ("<s>", "</s>")))
        revisions = hub.repos["models", "gpt2"].revisions
        revisions["step20"] = revisions["step10"] | {"tokenizer.json": (other / "tokenizer.json").read_bytes()}
        assert load_tokenizer(resolve_model("gpt2@step20", staging).tokenizer).fingerprint != main.fingerprint

    def test_shared_by_models(self, hub, cache, staging, tmp_path):
        other = write_tl_directory(tmp_path / "o", 4, weights_file="model_final.pth", tokenizer_name=TOKENIZER)
        hub.add_model("NeelNanda/GELU_2L512W_C4_Code", other)
        found = {resolve_model(spec, staging).tokenizer for spec in ("gelu-1l", "gelu-2l")}
        assert len(found) == 1
        assert hub.served[TOKENIZER, "tokenizer.json"].transfers == 1

    def test_missing_ones_do_not_keep_a_model_from_being_staged(self, hub, cache, staging):
        """Ready tokens need none; it is staged as soon as it can be had."""
        repo = hub.repos["models", TOKENIZER]
        repo.status = "broken"
        assert resolve_model("gelu-1l", staging).tokenizer == TOKENIZER
        assert not is_staged("gelu-1l", staging)
        with pytest.raises(DataError, match=rf"tokenizer\.json of {TOKENIZER} cannot be loaded: .* answers 503"):
            load_tokenizer(TOKENIZER)
        repo.status = "open"
        assert Path(resolve_model("gelu-1l", staging).tokenizer).is_relative_to(staging)
        assert is_staged("gelu-1l", staging)

    def test_repository_without_one(self, hub, cache, staging, tmp_path):
        hub.add_model("someone/bare", write_hf_gpt2_directory(tmp_path / "bare"))
        assert resolve_model("someone/bare", staging).tokenizer == "someone/bare"
        with pytest.raises(DataError, match=r"someone/bare holds no tokenizer"):
            load_tokenizer("someone/bare")

    def test_local_ones_stay_where_they_are(self, hub, cache, staging, tmp_path):
        for local in (str(tmp_path / "tokenizer"), str(tmp_path / "tokenizer" / "tokenizer.json")):
            assert stage_tokenizer(local, staging) == local
        assert not staging.exists()


class TestProcesses:
    @pytest.mark.nightly
    def test_two_stage_one_model_once(self, hub, cache, staging, tmp_path):
        code = RESOLVE.replace(
            "try:",
            "from erasure_sweep.workers.models import resolve_model as models\n"
            "convert = models.convert\n"
            "def counted(source, path):\n"
            "    with open(sys.argv[1] + '.count', 'a') as file: file.write('converted\\n')\n"
            "    return convert(source, path)\n"
            "models.convert = counted\n"
            "try:",
            1,
        )
        environment = run_environment(hub, tmp_path / "shared")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", code, str(staging), "gelu-1l"]
        both = [subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) for _ in range(2)]
        first, second = (finish(process) for process in both)
        assert first == second
        assert (first[0], first[2]) == (0, "")
        assert Path(f"{staging}.count").read_text() == "converted\n"
        assert hub.served[GELU, "model_final.pth"] == Served(len(hub.repos["models", GELU].files["model_final.pth"]), 1)
        assert [path.suffix for path in (staging / "models").iterdir()] == [".safetensors"]


class TestDamage:
    @pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
    def test_weights_are_made_anew_or_refused_in_a_line(self, damage, hub, cache, staging, tmp_path, monkeypatch):
        expected = stage(staging, ["gpt2"])
        weights = next((staging / "models").glob("*.safetensors"))
        content = weights.read_bytes()
        weights.write_bytes({"flipped": content[:-1] + b"\x7f", "truncated": content[:99], "gone": b""}[damage])
        if damage == "gone":
            weights.unlink()
        with monkeypatch.context() as unplugged, pytest.raises(DataError) as caught:
            hub.use_in_process(unplugged, tmp_path / "empty")
            unplugged.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", DEAD_HUB)
            resolve_model("gpt2", staging)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(
            f"staged weights {weights} are missing or damaged and cannot be made anew: {hub.url} cannot be reached"
        )
        assert stage(staging, ["gpt2"]) == expected

    def test_offline(self, hub, cache, staging, tmp_path):
        stage(staging, ["gpt2"])
        next((staging / "models").glob("*.safetensors")).unlink()
        code, out, error = finish(start(staging, run_environment(hub, tmp_path / "empty", offline=True), ["gpt2"]))
        assert (code, out, error.count("\n")) == (1, [], 1)
        assert "cannot be made anew: config.json of gpt2 is not in the Hugging Face cache and HF_HUB_OFFLINE" in error

    def test_of_a_tokenizer(self, hub, cache, staging):
        path = Path(resolve_model("gelu-1l", staging).tokenizer)
        fingerprint, content = load_tokenizer(str(path)).fingerprint, path.read_bytes()
        path.write_bytes(content.replace(b'"a"', b'"A"', 1))
        assert not is_staged("gelu-1l", staging)
        assert resolve_model("gelu-1l", staging).tokenizer == str(path)
        assert load_tokenizer(str(path)).fingerprint == fingerprint

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"check": 1}', b"\xff\xfe", None])
    def test_of_a_name(self, content, hub, cache, staging):
        first = resolve_model("gelu-1l", staging)
        for path in (staging / "names").iterdir():
            path.write_bytes(path.read_bytes().replace(b"gelu-1l", b"gelu-2l") if content is None else content)
        assert not is_staged("gelu-1l", staging)
        assert resolve_model("gelu-1l", staging) == first
        assert is_staged("gelu-1l", staging)


class TestRefresh:
    def test_what_changed_on_the_hub_is_seen_when_asked_for(self, hub, cache, staging, tmp_path):
        first = resolve_model("gpt2", staging)
        newer = write_hf_gpt2_directory(tmp_path / "newer", 9)
        repo = hub.repos["models", "gpt2"]
        repo.files["model.safetensors"] = (newer / "model.safetensors").read_bytes()
        assert resolve_model("gpt2", staging) == first
        second = resolve_model("gpt2", staging, refresh=True)
        assert second.hash == resolve_model(str(newer), staging).hash != first.hash
        assert resolve_model("gpt2", staging) == second

    def test_another_spelling_is_the_same_model(self, hub, cache, staging, tmp_path):
        resolve_model(GELU, staging)
        other = write_tl_directory(tmp_path / "other", 9, weights_file="model_final.pth", tokenizer_name=TOKENIZER)
        hub.add_model(GELU, other)
        moved = resolve_model("gelu-1l", staging, refresh=True)
        assert resolve_model(GELU, staging) == moved._replace(spec=GELU)

    def test_unchanged_is_not_converted_again(self, hub, cache, staging, monkeypatch):
        first = resolve_model("gpt2", staging)
        monkeypatch.setattr("erasure_sweep.workers.models.resolve_model.convert", None)
        assert resolve_model("gpt2", staging, refresh=True) == first

    def test_needs_the_hub(self, hub, cache, staging):
        resolve_model("gpt2", staging)
        hub.stop()
        with pytest.raises(DataError, match=r"cannot be reached for config\.json of gpt2"):
            resolve_model("gpt2", staging, refresh=True)
