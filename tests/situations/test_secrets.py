"""Passwords, keys and what travels to a cluster"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.bad_input import Bench, Ran, assert_refused, edit_json

SECRET = "Hunter2Xyzzy"
CLOSED = "127.0.0.1:9"


def holds_secret(folder: Path) -> list[str]:
    """Files below a folder that hold the secret, in whatever they are."""
    return [path.name for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me@corp.org:{SECRET}@{CLOSED}",
        f"postgresql://me:x%40{SECRET}@{CLOSED}/runs",
        f"https://{CLOSED}/?sig={SECRET}",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BSERVER%3D{CLOSED}%3BPWD%3D{SECRET}",
    ],
    ids=["address-as-user", "coded", "SAS", "ODBC"],
)
def test_a_password_in_the_address_of_a_store_that_fails(bench: Bench, out: Path, uri: str):
    """A password in `--tracking-uri`, in any form, and a store that does not answer

    The one line says which store, without the password; nor is it in the log or in any file that is left.
    """
    ran = bench.run(out, "--debug", tracking_uri=uri)
    assert ran.code == 1 and ran.line.startswith("erasure-sweep: MLflow at ") and "***" in ran.line, ran.stderr
    assert SECRET not in ran.stdout + ran.stderr and holds_secret(out.parent) == []


def test_passwords_of_a_run_that_goes_well(bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A token in the address of a store that works, and in `HF_TOKEN`

    It is masked by its value in everything: terminal, manifest, log, pages, what MLflow keeps, and `status`.
    """
    monkeypatch.setenv("HF_TOKEN", SECRET)
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?uri=true&sig={SECRET}"
    ran = bench.run(out, tracking_uri=uri, experiment="secrets", stage="scan")
    status = bench.call(out, ["status", str(out)])
    assert ran.code == status.code == 0, ran.stderr
    assert "MLFLOW_TRACKING_URI set to sqlite:///file:" in ran.stdout and "sig=***" in ran.stdout + status.stdout
    assert SECRET not in ran.stdout + ran.stderr + status.stdout and holds_secret(tmp_path) == []


class TestSubmit:
    """What travels is decided, and said, before the cluster is asked."""

    @pytest.fixture
    def here(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of who submits, with a model in it; a key lies outside."""
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n")
        here = tmp_path / "here"
        shutil.copytree(bench.model, here / "model")
        monkeypatch.chdir(here)
        return here

    def submit(self, bench: Bench, here: Path, *more: str) -> Ran:
        flags = ["--model", "model", "--corpus", str(bench.tokens), "--address", f"http://{CLOSED}", "--no-wait"]
        return bench.call(here / "out", ["submit", "demo", *flags, *more])

    def test_a_link_to_a_key(self, bench: Bench, here: Path):
        """`submit` of a model's folder with a link to a key in it, and a `.env`

        Neither travels, and that is said: of a model's folder only what models are read from is sent.
        """
        (here / "model" / "login").symlink_to(here.parent / "outside" / "id_ed25519")
        (here / "model" / ".env").write_text(f"PASSWORD={SECRET}")
        (here / "model" / "spelling").write_text("{}")
        edit_json(here / "model" / "config.json", tokenizer_name="spelling")  # which a tokenizer is read from
        ran = self.submit(bench, here)
        assert "stays here, since no model is read from it: model/.env and model/login" in ran.stdout
        assert ran.line.startswith(f"erasure-sweep: no Ray dashboard answers at http://{CLOSED}")

    def test_a_link_out_of_the_folder_in_place_of_a_part(self, bench: Bench, here: Path):
        """`submit` of a model whose weights are a link to a file elsewhere

        Refused with the file's name: links are followed inside of the current folder alone.
        """
        weights = next((here / "model").glob("*.safetensors"))
        weights.rename(here / "weights")
        weights.symlink_to(here / "weights")
        assert "is a link" not in self.submit(bench, here).line
        (here / "weights").rename(here.parent / "outside" / "weights")
        weights.unlink()
        weights.symlink_to(here.parent / "outside" / "weights")
        assert_refused(self.submit(bench, here), 2, f"model/{weights.name} is a link to", "copy the file to its place")

    def test_a_key_in_a_corpus(self, bench: Bench, here: Path):
        """`submit` of a folder of texts, one of which is a private key

        Refused with its name: it would be read as text on the cluster's head.
        """
        (here / "texts").mkdir()
        (here / "texts" / "a.txt").write_text("some text " * 100)
        shutil.copy(here.parent / "outside" / "id_ed25519", here / "texts" / "b.txt")
        assert_refused(self.submit(bench, here, "--corpus", "texts"), 2, "texts/b.txt looks like a key")

    @pytest.mark.parametrize("key", ["--tracking-uri", "--store", "--corpus"])
    def test_a_password_in_what_a_job_would_be_told(self, bench: Bench, here: Path, key: str):
        """`submit` with a password in `--tracking-uri`, `--store` or elsewhere in the config

        Refused without showing it: a job's config can be read on the dashboard, so it belongs in the cluster's environment.
        """
        ran = self.submit(bench, here, key, f"https://me@corp.org:{SECRET}@host/x")
        assert_refused(ran, 2, "holds a password", "in the environment of the cluster")
        assert SECRET not in ran.stderr
