"""What travels with a job, what it is told, and what decides which job it is."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.jobs.job_files import MOST_BYTES, job_files
from erasure_sweep.workers.errors import DataError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of who submits: a model, texts, and what nobody named."""
    files = {
        "models/good/config.json": "{}",
        "models/good/model.safetensors": "weights",
        "models/good/.cache/lock": "hidden",
        "models/good/.gitignore": "*",
        "texts/a.txt": "one",
        "texts/deep/b.md": "two",
        "texts/picture.png": "no text",
        "texts/.hidden.txt": "hidden",
        "notes.txt": "other",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(**values: object) -> SweepConfig:
    return SweepConfig(**{"name": "trial", "models": ["toy-gelu-1l"], **values})


class TestWhatTravels:
    def test_files_that_the_config_names_by_relative_paths(self, here: Path):
        sent = job_files(config(models=["models/good", "toy-gelu-1l", "gpt2@main"], corpus="texts"))
        model = {"models/good/config.json", "models/good/model.safetensors"}
        assert set(sent.files) == model | {"texts/a.txt", "texts/deep/b.md"}

    def test_a_model_that_the_user_named(self, here: Path):
        sent = job_files(config(models=["mine=models/good"], corpus="/data/texts"))
        assert set(sent.files) == {"models/good/config.json", "models/good/model.safetensors"}
        assert sent.config.models == ["mine=models/good"]

    def test_the_config_keeps_their_names(self, here: Path):
        own = {"toy-gelu-1l": "notes.txt"}
        sent = job_files(config(models=["models/good", "toy-gelu-1l"], corpus="own", own_corpora=own))
        assert (sent.config.models, sent.config.own_corpora) == (["models/good", "toy-gelu-1l"], own)
        assert "notes.txt" in sent.files

    @pytest.mark.parametrize(
        "name", ["gpt2", "NeelNanda/GELU_1L512W_C4_Code", "toy-gelu-4l@all", "/data/model", "~/model"]
    )
    def test_names_and_absolute_paths_are_the_clusters_own(self, here: Path, name: str):
        assert job_files(config(models=[name], corpus="/data/texts")).files == {}

    def test_a_known_name_goes_before_a_folder(self, here: Path):
        (here / "gpt2").mkdir()
        (here / "gpt2" / "config.json").write_text("{}")
        (here / "stdlib").mkdir()
        assert job_files(config(models=["gpt2"], corpus="stdlib")).files == {}

    def test_the_package_holds_them_beside_the_config(self, here: Path, tmp_path: Path):
        job_files(config(models=["models/good"], corpus="texts/a.txt")).write(tmp_path / "job.zip")
        with zipfile.ZipFile(tmp_path / "job.zip") as package:
            content = {name: package.read(name) for name in package.namelist()}
        values = yaml.safe_load(content.pop("sweep.yaml"))
        assert content == {
            "files/models/good/config.json": b"{}",
            "files/models/good/model.safetensors": b"weights",
            "files/texts/a.txt": b"one",
        }
        assert (values["name"], values["models"], values["corpus"]) == ("trial", ["models/good"], "texts/a.txt")
        assert values["out"] == "~/runs/trial"

    def test_the_same_files_are_the_same_package(self, here: Path, tmp_path: Path):
        packages = []
        for moment in (1_000_000_000, 1_100_000_000):
            os.utime(here / "notes.txt", (moment, moment))
            job_files(config(corpus="notes.txt")).write(tmp_path / "job.zip")
            packages.append((tmp_path / "job.zip").read_bytes())
        assert packages[0] == packages[1]

    @pytest.mark.parametrize("name", ["../models/good", "models/../../good", "."])
    def test_nothing_outside_the_folder(self, here: Path, name: str):
        (here / "below").mkdir()
        with pytest.raises(UsageError, match="lies outside the current folder, or is it"):
            job_files(config(corpus=name))

    def test_not_too_much(self, here: Path):
        with (here / "notes.txt").open("wb") as file:
            file.truncate(MOST_BYTES + 1)
        with pytest.raises(UsageError, match=r"100 MB would travel with the job, notes.txt the largest.*absolute path"):
            job_files(config(corpus="notes.txt"))

    def test_what_is_not_there_is_said_before_anything_is_sent(self, here: Path):
        with pytest.raises(UsageError, match=r"corpus missing\.txt is neither a known name nor a file"):
            job_files(config(corpus="missing.txt"))
        with pytest.raises(UsageError, match=r"model directory \./missing does not exist"):
            job_files(config(models=["./missing"]))

    def test_what_cannot_be_read(self, here: Path):
        (here / "models/good/gone.bin").symlink_to("nowhere")
        with pytest.raises(DataError, match=r"models/good/gone.bin cannot be read \(No such file"):
            job_files(config(models=["models/good"]))


class TestWhatAJobIsTold:
    def test_its_command(self):
        command = job_files(config()).entrypoint(False, "a1b2")
        assert command == (
            'mkdir -p files && cd files && MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-sqlite:///$HOME/mlflow.db}" '
            "erasure-sweep run ../sweep.yaml --ray-address auto # a1b2"
        )

    def test_a_tracking_store_of_the_config_is_kept(self):
        sent = job_files(config(tracking_uri="http://mlflow:5000"))
        assert sent.config.tracking_uri == "http://mlflow:5000"
        assert "MLFLOW" not in sent.entrypoint(True, "a") and "--fresh" in sent.entrypoint(True, "a")

    def test_the_shell_does_what_the_command_says(self, tmp_path: Path):
        """A stand-in for the command itself prints where it is, what it was told and what it sees."""
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/erasure-sweep").write_text('#!/bin/sh\necho "$PWD|$*|$MLFLOW_TRACKING_URI"; exit 7\n')
        (tmp_path / "bin/erasure-sweep").chmod(0o755)
        command = job_files(config()).entrypoint(True, "a1b2")

        def run(**variables: str) -> tuple[int, str]:
            environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": "/home of/ray", **variables}
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout.strip()

        told = f"{tmp_path}/files|run ../sweep.yaml --ray-address auto --fresh"
        assert run() == (7, f"{told}|sqlite:////home of/ray/mlflow.db")
        assert run(MLFLOW_TRACKING_URI="http://x") == (7, f"{told}|http://x")
        (tmp_path / "bin/erasure-sweep").unlink()
        assert run()[0] == 127

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("tracking_uri", "http://me:hush@mlflow:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
            ("tracking_uri", "https://hush@mlflow", "MLFLOW_TRACKING_PASSWORD"),
            ("tracking_uri", "postgresql://me:hush@db/mlflow", "set MLFLOW_TRACKING_URI in the environment"),
            ("tracking_uri", "postgresql://db/mlflow?user=me&password=hush", "set MLFLOW_TRACKING_URI"),
            ("store", "s3://key:hush@bucket/prefix", "AWS_SECRET_ACCESS_KEY"),
        ],
    )
    def test_nothing_secret(self, key: str, value: str, said: str):
        with pytest.raises(UsageError, match=f"{key} = .*dashboard.*{said}") as raised:
            job_files(config(**{key: value}))
        assert "hush" not in str(raised.value) or value.startswith("https://hush@")

    @pytest.mark.parametrize("uri", ["postgresql://me@db/mlflow", "http://mlflow:5000", "sqlite:////data/mlflow.db"])
    def test_addresses_without_a_password_pass(self, uri: str):
        assert job_files(config(tracking_uri=uri, store="s3://bucket/me@home")).config.tracking_uri == uri

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("out", "results"), ("store", "shards"), ("store", "a:b"), ("staging", "staged")),
            ("tracking_uri", "sqlite:///mlflow.db"),
        ],
    )
    def test_nothing_is_left_where_it_would_be_lost(self, key: str, value: str):
        with pytest.raises(UsageError, match=f"{key} = {value!r}: a job's own folder is removed"):
            job_files(config(**{key: value}))
        kept = "sqlite:////x/mlflow.db" if key == "tracking_uri" else "~/x"
        assert getattr(job_files(config(**{key: kept})).config, key) == kept


class TestIds:
    def test_name_and_twelve_digits(self):
        assert re.fullmatch(r"trial-[0-9a-f]{12}", job_files(config()).id)

    @pytest.mark.parametrize(
        "same",
        [
            {"workers": 3},
            {"max_workers": 7},
            {"ray_address": "10.0.0.1:6379"},
            {"tracking_uri": "http://elsewhere:5000"},
            {"out": "~/runs/trial"},
        ],
    )
    def test_the_same_sweep_is_the_same_job(self, same: dict[str, object]):
        assert job_files(config(**same)).id == job_files(config()).id

    @pytest.mark.parametrize(
        "other",
        [
            {"models": ["toy-gelu-2l"]},
            {"prompts": 8},
            {"stage": "scan"},
            {"out": "/data/out"},
            {"store": "s3://bucket"},
            {"experiment": "other"},
            {"writers": ["L0H0"]},
            {"top": 5},
            {"device": "cpu"},
        ],
    )
    def test_another_sweep_is_another_job(self, other: dict[str, object]):
        assert job_files(config(**other)).id != job_files(config()).id

    def test_so_is_one_on_another_text(self, here: Path):
        first = job_files(config(corpus="notes.txt")).id
        (here / "notes.txt").write_text("changed")
        assert job_files(config(corpus="notes.txt")).id != first
