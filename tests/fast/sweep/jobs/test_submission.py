"""Jobs on a cluster: which is started, what of its log is shown, how it ends, and addresses that do not answer."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from erasure_sweep.sweep.commands import main
from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.execution.ray.jobs import JobState, RayJobs, find_address
from erasure_sweep.sweep.jobs import submission as jobs
from erasure_sweep.sweep.jobs.job_files import JobFiles, job_files
from erasure_sweep.sweep.terminal import ending
from erasure_sweep.workers.errors import SweepError, UsageError
from tests.support.waiting import sleeping_at_most


@pytest.fixture(autouse=True)
def _no_cluster_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def config() -> SweepConfig:
    return SweepConfig(name="trial", models=["toy-gelu-1l"])


class Cluster:
    """The jobs of a cluster, as ``RayJobs`` has them, played by a test."""

    address = shown = "http://head:8265"

    def __init__(self) -> None:
        self.jobs: dict[str, JobState] = {}
        self.printed = ""
        """The whole log."""
        self.will_print = ""
        """What the next job prints."""
        self.ends: JobState | None = None
        """How it ends, once its log was read."""
        self.connections: Callable[[str], list[list[str]]] = lambda log: [[log]]
        """What each connection brings of the log, piece by piece, until it is lost or the job is over."""
        self._lost = 0
        self.calls: list[str] = []
        self.on_submit: Callable[[], None] = lambda: None

    def find(self, job: str) -> JobState | None:
        return self.jobs.get(job)

    def submit(
        self, job: str, entrypoint: str, package: Path, metadata: dict[str, str], variables: dict[str, str]
    ) -> bool:
        self.on_submit()
        if job in self.jobs:
            return False
        self.calls.append("submit")
        assert zipfile.is_zipfile(package)
        self.variables, self.attempt = variables, metadata["attempt"]
        self.jobs[job] = state(job, "RUNNING", metadata=metadata)
        self.printed += f"Runtime env is setting up.\nRunning entrypoint for job {job}: {entrypoint}\n{self.will_print}"
        return True

    def delete(self, job: str) -> None:
        self.calls.append("delete")
        self.jobs.pop(job, None)

    def stop(self, job: str) -> None:
        self.calls.append("stop")
        self.jobs[job] = self.jobs[job]._replace(state="STOPPED")

    def log(self, job: str) -> str:
        return self.printed

    def list(self) -> list[JobState]:
        return list(self.jobs.values())

    async def tail(self, job: str) -> AsyncIterator[str]:
        connections = self.connections(self.printed)
        for piece in connections[min(self._lost, len(connections) - 1)]:
            yield piece
        self._lost += 1
        if self._lost == len(connections) and self.ends:
            self.jobs[job] = self.ends._replace(metadata=self.jobs[job].metadata)


def state(
    job: str, how: str, code: int | None = None, message: str = "", metadata: dict[str, str] | None = None
) -> JobState:
    return JobState(job, how, metadata or {}, None, None, code, message)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    played = Cluster()
    monkeypatch.setattr(jobs, "RayJobs", lambda address: played)
    monkeypatch.setattr(jobs, "RETRY_S", 0.01)
    return played


def submit(cluster: Cluster, **options: bool) -> JobFiles:
    jobs.submit(config(), "head", **{"fresh": False, "wait": True, **options})
    return job_files(config())


class TestSubmit:
    def test_a_job_is_followed_to_its_end(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        cluster.ends = state("x", "SUCCEEDED", 0)
        cluster.will_print = "one\ntwo\n"
        sent = submit(cluster)
        shown = capsys.readouterr().out.splitlines()
        assert shown == [
            f"submitted {sent.id} to http://head:8265: following it, Ctrl-C leaves it running",
            "one",
            "two",
        ]

    def test_the_driver_has_time_to_note_its_end(self, cluster: Cluster):
        submit(cluster, wait=False)
        assert int(cluster.variables["RAY_JOB_STOP_WAIT_TIME_S"]) >= 20

    def test_without_waiting(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        sent = submit(cluster, wait=False)
        line = capsys.readouterr().out
        assert (
            line.startswith(f"submitted {sent.id}")
            and f"erasure-sweep status {sent.id} --address http://head:8265" in line
        )

    def test_one_that_runs_is_followed(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        sent = submit(cluster, wait=False)
        cluster.ends = state(sent.id, "SUCCEEDED", 0)
        submit(cluster)
        assert cluster.calls == ["submit"]
        assert f"{sent.id} is running already at http://head:8265: following it" in capsys.readouterr().out

    def test_anew_only_where_none_runs(self, cluster: Cluster):
        submit(cluster, wait=False)
        with pytest.raises(UsageError, match="is running already: stop it first"):
            submit(cluster, fresh=True)

    @pytest.mark.parametrize("how", ["SUCCEEDED", "FAILED", "STOPPED"])
    def test_one_that_ended_is_submitted_again(self, cluster: Cluster, how: str):
        sent = job_files(config())
        cluster.jobs[sent.id] = state(sent.id, how)
        submit(cluster, wait=False)
        assert cluster.calls == ["delete", "submit"]

    def test_of_two_at_a_time_the_second_follows_the_first(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        sent = job_files(config())

        def other_is_quicker() -> None:
            cluster.jobs[sent.id] = state(sent.id, "RUNNING")

        cluster.on_submit = other_is_quicker
        cluster.ends = state(sent.id, "SUCCEEDED", 0)
        submit(cluster)
        assert cluster.calls == []
        assert f"{sent.id} is running already" in capsys.readouterr().out

    def test_lost_connections_print_no_line_twice(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        cluster.ends = state("x", "SUCCEEDED", 0)
        cluster.will_print = "".join(f"line {i}\n" for i in range(6))
        cluster.connections = lambda log: [[log[:-30]], [], [log[:20], log[20:-9]], [log[:-12]]]
        submit(cluster)
        assert capsys.readouterr().out.splitlines()[1:] == [f"line {i}" for i in range(6)]

    def test_what_an_earlier_job_printed_is_not_shown(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        cluster.printed = "Running entrypoint for job x: erasure-sweep run # 0123\nold\n"
        cluster.ends = state("x", "SUCCEEDED", 0)
        cluster.will_print = "new\n"
        cluster.connections = lambda log: [[log[:10]], [log[i : i + 7] for i in range(0, len(log), 7)]]
        submit(cluster)
        assert capsys.readouterr().out.splitlines()[1:] == ["new"]

    @pytest.mark.parametrize(
        ("ends", "printed", "code", "said"),
        [
            (("FAILED", 1), "x\nerasure-sweep: tokens.npy is damaged\n", 1, "failed: tokens.npy is damaged"),
            (("FAILED", 2), "erasure-sweep: no such model\n", 2, "failed: no such model"),
            (("FAILED", 137), "half a line", 137, "failed: its command ended with exit code 137"),
            (
                ("FAILED", 127),
                "sh: 1: erasure-sweep: not found\n",
                127,
                "no erasure-sweep on its PATH: install it there",
            ),
            (("FAILED", None, "runtime_env setup failed:\n  no room\n"), "", 1, "failed: no room"),
            (("FAILED", None), "", 1, "Ray does not say why"),
            (("STOPPED", None), "x\n", 130, "was stopped: the same `submit` goes on from there"),
        ],
    )
    def test_exit_codes(self, cluster: Cluster, ends: tuple[str, int | None], printed: str, code: int, said: str):
        cluster.ends, cluster.will_print = state("x", *ends), printed
        with pytest.raises(SweepError) as raised:
            submit(cluster)
        assert raised.value.exit_code == code
        assert said in str(raised.value)

    def test_a_connection_that_is_lost_after_hours_is_made_again(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        """The tunnel drops: for a moment no question is answered either."""
        now = [0.0]
        monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: None))
        find, asked = cluster.find, []

        def find_but_once(job: str) -> JobState | None:
            asked.append(job)
            if len(asked) == 3:
                now[0] += 5 * 3600.0
                raise SweepError("no Ray dashboard answers")
            return find(job)

        monkeypatch.setattr(cluster, "find", find_but_once)
        cluster.will_print = "one\ntwo\n"
        cluster.connections = lambda log: [[log], [log]]
        cluster.ends = state("", "SUCCEEDED", 0)
        submit(cluster)
        assert capsys.readouterr().out.endswith("one\ntwo\n")
        assert len(asked) > 3

    def test_a_cluster_that_is_gone_for_good(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(jobs, "GONE_S", 0.2)
        submit(cluster, wait=False)
        asked = 0

        def fail(job: str) -> JobState:
            nonlocal asked
            asked += 1
            if asked <= 2:
                return state(job, "RUNNING")
            raise SweepError("no Ray dashboard answers")

        monkeypatch.setattr(cluster, "find", fail)
        began = time.monotonic()
        with pytest.raises(SweepError, match="no Ray dashboard answers"):
            submit(cluster)
        assert time.monotonic() - began >= 0.2
        assert asked > 4

    def test_ctrl_c_leaves_it_running(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        def interrupt(*_: object) -> None:
            ending._interrupted.set()
            raise KeyboardInterrupt

        sent = job_files(config())
        monkeypatch.setattr(jobs, "_follow", interrupt)
        monkeypatch.setattr("erasure_sweep.sweep.commands.submit.load", lambda *_: config())
        assert main.call(["submit", "demo", "--address", "head"]) == 130
        error = capsys.readouterr().err
        assert error.startswith(f"erasure-sweep: job {sent.id} goes on: `erasure-sweep status {sent.id} --address ")
        assert len(error.splitlines()) == 1
        assert cluster.jobs[sent.id].state == "RUNNING"


class TestStatusAndStop:
    def test_a_job(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        sent = submit(cluster, wait=False)
        cluster.printed += "".join(f"line {i}\n" for i in range(30))
        capsys.readouterr()
        jobs.status(sent.id, "head")
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].split() == [sent.id, "RUNNING"]
        assert "sweep trial, in ~/runs/trial on the cluster's head" in shown
        assert [line.strip() for line in shown[-10:]] == [f"line {i}" for i in range(20, 30)]

    def test_the_jobs_of_this_project(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        cluster.jobs["raysubmit_1"] = state("raysubmit_1", "RUNNING")
        jobs.status(None, "head")
        assert capsys.readouterr().out.startswith("no sweep was submitted to http://head:8265")
        sent = submit(cluster, wait=False)
        capsys.readouterr()
        jobs.status(None, "head")
        assert capsys.readouterr().out.split() == [sent.id, "RUNNING"]

    def test_one_that_nobody_knows(self, cluster: Cluster):
        for ask in (jobs.status, jobs.stop):
            with pytest.raises(
                UsageError, match="knows no job trial-1: `erasure-sweep status --address http://head:8265` lists"
            ):
                ask("trial-1", "head")

    def test_stop(self, cluster: Cluster, capsys: pytest.CaptureFixture[str]):
        sent = submit(cluster, wait=False)
        capsys.readouterr()
        jobs.stop(sent.id, "head")
        assert capsys.readouterr().out.startswith(f"{sent.id}  STOPPED; what it measured is kept")
        jobs.stop(sent.id, "head")
        assert capsys.readouterr().out.startswith(f"{sent.id} is not running: STOPPED")
        assert cluster.calls.count("stop") == 1

    def test_one_that_does_not_end(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(jobs, "STOP_S", 0)
        monkeypatch.setattr(jobs, "GONE_S", 0.1)
        sent = submit(cluster, wait=False)
        monkeypatch.setattr(cluster, "stop", lambda job: None)
        with pytest.raises(SweepError, match="was told to stop and has not ended"):
            jobs.stop(sent.id, "head")


class TestAddresses:
    @pytest.mark.parametrize(
        ("given", "address"),
        [
            ("http://head:8265", "http://head:8265"),
            ("https://ray.example.com/cluster/", "https://ray.example.com/cluster"),
            ("head:9000", "http://head:9000"),
            ("head", "http://head:8265"),
            ("10.0.0.1", "http://10.0.0.1:8265"),
        ],
    )
    def test_as_given(self, given: str, address: str):
        assert find_address(given) == address

    def test_of_the_environment(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("RAY_ADDRESS", "http://a:1")
        assert find_address(None) == "http://a:1"
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://b:2")
        assert find_address(None) == "http://b:2"
        assert find_address("c:3") == "http://c:3"

    def test_none(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        with pytest.raises(UsageError, match="name the cluster with --address"):
            find_address(None)

    @pytest.mark.parametrize("given", ["ray://head:10001", "auto", "a b", "http://", "ftp://head"])
    def test_no_address_of_a_dashboard(self, given: str):
        with pytest.raises(UsageError, match="is no address of a Ray dashboard"):
            find_address(given)

    def test_nothing_listens(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        assert_no_dashboard(f"http://127.0.0.1:{port}", "Connection refused")

    def test_something_that_never_answers(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("erasure_sweep.sweep.execution.ray.jobs.VERSION_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            assert_no_dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}", "timed out")

    def test_something_else_that_speaks_no_http(self):
        def greet() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"\0\0\0 SETTINGS")
                connection.close()

        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=greet, daemon=True).start()
            assert_no_dashboard(f"http://127.0.0.1:{server.getsockname()[1]}", "")

    def test_another_web_server(self, answers: Callable[[int, str], str]):
        assert_no_dashboard(answers(404, "nothing here"), "something else does")
        assert_no_dashboard(answers(200, "<html>"), "")
        assert_no_dashboard(answers(200, "{}"), "")

    def test_another_token(self, answers: Callable[[int, str], str]):
        for status in (401, 403):
            with pytest.raises(
                SweepError, match="asks for its token, and was given none or another: set RAY_AUTH_MODE=token"
            ):
                RayJobs(answers(status, "no"))

    def test_a_ray_that_is_too_old(self, answers: Callable[[int, str], str]):
        with pytest.raises(SweepError, match=r"runs Ray 2\.9\.3, and erasure-sweep needs 2\.53 or newer"):
            RayJobs(answers(200, json.dumps({"ray_version": "2.9.3"})))

    def test_the_address_goes_before_the_environment(
        self, answers: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
        address = answers(200, json.dumps({"ray_version": "2.60.0"}))
        assert RayJobs(address).address == address


@pytest.fixture
def answers() -> Iterator[Callable[[int, str], str]]:
    """Start a server that answers every request so; its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_no_dashboard(address: str, reason: str) -> None:
    refused = pytest.raises(SweepError, match=r"no Ray dashboard answers at .*http://HOST:8265")
    with refused as raised, sleeping_at_most(60):
        RayJobs(address)
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
