"""Sweeps logged as people log them: MLflow's server with basic auth, PostgreSQL and S3 behind it, all of which may fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from erasure_sweep.sweep.tracking.logged_runs import LoggedRuns
from erasure_sweep.workers.errors import SweepError
from tests.conftest import without_tool
from tests.support.bad_input import D_VOCAB, PROMPTS, SEQ_LEN, Bench, Ran, assert_refused, environment
from tests.support.models.random_models import write_tl_directory
from tests.support.servers import services as servers
from tests.support.servers.services import Services, free_port, postgres_folder, services_for_a_while
from tests.support.waiting import wait_until

N_SHARDS = PROMPTS // 8


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    if postgres_folder() is None:
        without_tool("PostgreSQL is not installed (apt-get install postgresql)")
    with services_for_a_while() as services, pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment().items():
            patch.setenv(name, value)
        yield services


@pytest.fixture(scope="module")
def bench(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """With a background process that finds the services."""
    bench = Bench(tmp_path_factory.mktemp("services"), pages=True)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def other(bench: Bench) -> Path:
    return write_tl_directory(bench.root / "other", 5, 1, 2, 16)


@pytest.fixture
def run(bench: Bench, services: Services, out: Path) -> Callable[..., Ran]:
    """A run that is logged on the server."""
    return lambda *more, **changes: bench.run(out, *more, tracking_uri=services.mlflow.uri, **changes)


def client(services: Services) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=services.mlflow.uri)


def logged(services: Services, out: Path) -> dict[str, Any]:
    """The runs of this test's experiment, by name; the sweep's without the number of its models."""
    experiment = client(services).get_experiment_by_name(out.parent.name)
    assert experiment is not None
    return {
        run.info.run_name.partition(" (")[0]: run for run in client(services).search_runs([experiment.experiment_id])
    }


def statuses(services: Services, out: Path) -> dict[str, str]:
    return {name: run.info.status for name, run in logged(services, out).items()}


def artifacts(services: Services, run: Any) -> dict[str, bytes]:
    """What S3 holds of a run, by path below its artifacts."""
    s3, folder = services.s3, f"{run.info.run_id}/artifacts/"
    keys = [key for key in s3.keys("artifacts/") if folder in key]
    read = {key: s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read() for key in keys}
    return {key.partition(folder)[2]: content for key, content in read.items()}


def results_of(folder: Path) -> dict[str, bytes]:
    """A model's page, tables and figures, by path below its folder."""
    paths = [folder / "index.html", *(folder / "tables").iterdir(), *(folder / "figures").iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_sweep_is_logged_with_its_artifacts_in_s3(run, services: Services, out: Path, measured: Ran):
    ran = run(store=services.s3.uri())
    assert ran.code == 0, ran.stderr
    assert ran.tables() == measured.tables()
    found = logged(services, out)
    assert {name: each.info.status for name, each in found.items()} == {"good": "FINISHED", out.parent.name: "FINISHED"}
    assert found["good"].data.metrics["ledger/half_gone"] >= 0
    assert artifacts(services, found["good"]) == results_of(out / "good")
    kept = artifacts(services, found[out.parent.name])
    assert kept["compare.html"] == (out / "compare.html").read_bytes() and "sweep.json" in kept
    assert "View run" not in ran.stdout


@pytest.mark.nightly
def test_a_server_that_is_killed_and_restarted_meanwhile(
    run, services: Services, out: Path, other: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    log_model, end_sweep = LoggedRuns.log_model, LoggedRuns.end_sweep

    def log_to_nobody(runs: LoggedRuns, *arguments: Any) -> None:
        services.mlflow.stop()
        log_model(runs, *arguments)

    def end_with_a_new_one(runs: LoggedRuns, *arguments: Any) -> None:
        wait_until(lambda: runs.problems)
        assert "Connection refused" in runs.problems[0]
        services.mlflow.start()
        end_sweep(runs, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LoggedRuns, "log_model", log_to_nobody)
        patch.setattr(LoggedRuns, "end_sweep", end_with_a_new_one)
        ran = run("--model", str(other))
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.states == {"other": "FINISHED", "good": "FINISHED"}
    assert ran.tables().items() >= measured.tables().items()
    assert statuses(services, out) == dict.fromkeys(["good", "other", out.parent.name], "FINISHED")
    for name in ("good", "other"):
        assert artifacts(services, logged(services, out)[name]) == results_of(out / name)
    said = [line for line in ran.stdout.splitlines() if line.startswith("MLflow ")]
    assert "unless it takes them before this one ends" in said[0]
    assert said[1].startswith("MLflow answers again, after ")


@pytest.mark.nightly
def test_a_database_that_is_down_at_the_end(
    run, services: Services, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    log_model = LoggedRuns.log_model

    def log_without_database(runs: LoggedRuns, *arguments: Any) -> None:
        services.postgres.stop()
        log_model(runs, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(LoggedRuns, "log_model", log_without_database)
            ran = run()
    finally:
        services.postgres.start()
    assert (ran.code, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert ran.line.startswith(f"erasure-sweep: MLflow at {services.mlflow.uri} failed: ")
    assert ran.line.endswith("results on disk are kept, the next `erasure-sweep run` logs them")
    assert services.password not in ran.stderr + ran.stdout + (out / "run.log").read_text()
    assert ran.states == {"good": "FINISHED"} and ran.tables() == measured.tables()
    assert "FINISHED" not in statuses(services, out).values()
    again = run()
    assert again.code == 0, again.stderr
    assert f"good: {N_SHARDS} shards of scan, {N_SHARDS} already measured" in again.stdout
    assert set(statuses(services, out).values()) == {"FINISHED"}


class TestWhoMayLog:
    def refused(self, run, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Ran:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        return run()

    def test_a_wrong_password(self, run, monkeypatch: pytest.MonkeyPatch):
        ran = self.refused(run, monkeypatch, USERNAME="admin", PASSWORD="not-the-password")
        variables = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        assert_refused(ran, 1, "refuses the user admin (401)", variables)
        assert "not-the-password" not in ran.stderr

    def test_no_password(self, run, monkeypatch: pytest.MonkeyPatch):
        ran = self.refused(run, monkeypatch)
        assert_refused(ran, 1, "asks who you are (401)", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")

    def test_a_user_who_may_only_read(self, run, services: Services, out: Path, monkeypatch: pytest.MonkeyPatch):
        from mlflow.server import get_app_client

        client(services).create_experiment(out.parent.name)  # another user's
        get_app_client("basic-auth", tracking_uri=services.mlflow.uri).create_user("reader", "reads-and-reads")
        ran = self.refused(run, monkeypatch, USERNAME="reader", PASSWORD="reads-and-reads")
        assert_refused(ran, 1, "does not let the user reader do this (403): ask for permission")


class TestAServerThatHangs:
    """It accepts connections and never answers; the run is a process of its own."""

    def start(self, bench: Bench, out: Path, services: Services) -> subprocess.Popen[str]:
        np.save(out.parent / "long.npy", np.random.default_rng(2).integers(0, D_VOCAB, (400, SEQ_LEN)))
        long = {"corpus": out.parent / "long.npy", "prompts": 400, "stage": "scan"}
        command = bench.command(out, **long, tracking_uri=services.mlflow.uri)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **pipes, env=environment(), start_new_session=True)

    def interrupted(self, bench: Bench, out: Path, process: subprocess.Popen[str]) -> Ran:
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate()
        ran = bench.ran(process.returncode, stdout, stderr, out)
        assert ran.code == 130, ran.stderr
        assert ran.line == "erasure-sweep: interrupted; the same command goes on from here"
        return ran

    @pytest.mark.nightly
    def test_neither_holds_up_measuring_nor_an_interrupt(self, bench: Bench, out: Path, services: Services):
        process = self.start(bench, out, services)
        wait_until(lambda: len(list(out.rglob("*.state"))) >= 3, process)
        with services.mlflow.pause():
            ran = self.interrupted(bench, out, process)
        done = len(ran.shards())
        assert ran.states == {"good": "KILLED"} and 3 <= done < 50

        process = self.start(bench, out, services)
        wait_until(lambda: len(list(out.rglob("*.state"))) > done, process)
        with services.mlflow.pause():
            wait_until((out / "compare.html").exists, process)
            ran = self.interrupted(bench, out, process)
        assert ran.states == {"good": "FINISHED"} and len(ran.shards()) == 58  # 8 more of paths
        assert "FINISHED" not in statuses(services, out).values()

        stdout, stderr = self.start(bench, out, services).communicate()
        assert "good: 50 shards of scan, 50 already measured" in stdout and stderr == ""
        assert set(statuses(services, out).values()) == {"FINISHED"}


class TestTheCommand:
    def test_runs_until_it_is_told_to_end(self, tmp_path_factory: pytest.TempPathFactory):
        import tempfile

        with tempfile.TemporaryDirectory() as root:
            Path(root).chmod(0o755)
            folder, port = Path(root, "data"), free_port()
            command = [
                sys.executable,
                "-m",
                "tests.support.servers.services",
                "--folder",
                str(folder),
                "--mlflow-port",
                str(port),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            said = ""
            assert process.stdout is not None
            while "Ctrl-C ends all" not in said and (line := process.stdout.readline()):
                said += line
            shown = dict(
                line.removeprefix("export ").split("=", 1) for line in said.splitlines() if line[:7] == "export "
            )
            assert shown["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{port}", said
            assert (folder / "env").stat().st_mode & 0o077 == 0
            ports = [int(shown[name].rpartition(":")[2]) for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL")]
            assert all(socket.create_connection(("127.0.0.1", each), 5) for each in ports)
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate()
            assert (process.returncode, rest.splitlines()[-1]) == (0, "ended")
            for each in ports:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", each), 5)
            assert not (folder / "postgres" / "postmaster.pid").exists()

    def test_without_postgresql(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(servers, "postgres_folder", lambda: None)
        result = CliRunner().invoke(servers.main, ["--folder", str(tmp_path / "data")])
        assert result.exit_code == 1
        assert result.output.splitlines()[-1] == "Error: PostgreSQL is not installed: apt-get install postgresql"

    def test_a_folder_that_its_user_cannot_reach(self, tmp_path: Path):
        if os.geteuid() != 0:
            pytest.skip("only root runs PostgreSQL as another user")
        (tmp_path / "closed").mkdir(mode=0o700)
        with pytest.raises(SweepError, match=r"PostgreSQL cannot make .*name another folder with --folder"):
            servers.Postgres(tmp_path / "closed" / "postgres", "secret").start()
