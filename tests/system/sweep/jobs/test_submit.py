"""Sweeps as jobs on a real cluster, through the command line as a user has it: submit, follow, leave, status, stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.bad_input import Bench, Ran
from tests.support.servers.cluster import ERASURE_SWEEP, HandCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("ray")

LONG = ("--corpus", "long.npy", "--prompts", "100", "--seq-len", "16", "--stage", "scan")
SHORT = ("--corpus", "tokens.npy", "--prompts", "16", "--seq-len", "16")


class Desk:
    """The machine of who submits: a folder with a model and tokens, and a cluster of two workers."""

    def __init__(self, root: Path, cluster: HandCluster) -> None:
        self.bench, self.cluster = Bench(root), cluster
        np.save(root / "long.npy", np.random.default_rng(2).integers(0, 97, (200, 16)))

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """``erasure-sweep`` in the folder, as a process group of its own."""
        return subprocess.Popen(
            [ERASURE_SWEEP, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.bench.root,
            env=self.cluster.environment(**variables),
            start_new_session=True,
        )

    def submit(self, name: str, *more: str) -> subprocess.Popen[str]:
        (self.bench.root / f"{name}.yaml").write_text("models: [good]\nblock_prompts: 2\n")
        return self.start("submit", f"{name}.yaml", *more)

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        return end(self.start(*arguments, **variables))

    def out(self, name: str) -> Path:
        """Where the job of this name leaves what it measured, on the head."""
        return self.cluster.home / "runs" / name

    def hold_workers(self) -> None:
        """Have every worker stand still, so that a job takes as long as a test needs."""
        held = [pid for node in self.cluster.workers for pid in node.worker_pids]
        assert held
        for pid in held:
            os.kill(pid, signal.SIGSTOP)

    def measured(self, name: str, ended: tuple[int, str, str]) -> Ran:
        return self.bench.ran(*ended, self.out(name))._replace(runs={})


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with HandCluster() as cluster:
        cluster.add_workers(2)
        found = Desk(tmp_path_factory.mktemp("desk"), cluster)
        yield found
        found.bench.close()


def undisturbed(desk: Desk, name: str, out: Path, flags: Sequence[str], patch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Tables of the same sweep in this process."""
    patch.chdir(desk.bench.root)
    own = ["--workers", "0", "--out", str(out), "--tracking-uri", desk.bench.tracking_uri]
    ran = desk.bench.call(out, ["run", f"{name}.yaml", *flags, *own])
    assert ran.code == 0, ran.stderr
    return ran.tables()


@pytest.mark.nightly
def test_two_who_submit_the_same_share_one_job(desk: Desk, out: Path, monkeypatch: pytest.MonkeyPatch):
    both = [end(process) for process in [desk.submit("twice", *SHORT), desk.submit("twice", *SHORT)]]
    for code, stdout, stderr in both:
        assert (code, stderr) == (0, ""), stdout
        assert stdout.count("preparing good") == 1 and "Running entrypoint" not in stdout
    first = sorted(stdout.splitlines()[0] for _, stdout, _ in both)
    job = re.match(r"submitted (twice-[0-9a-f]{12}) to http://127", first[0])
    assert job is not None
    assert first[1].startswith(f"{job[1]} is running already at http://127")
    ran = desk.measured("twice", both[0])
    assert ran.states == {"good": "FINISHED"}
    assert ran.tables() == undisturbed(desk, "twice", out, SHORT, monkeypatch)
    assert (desk.cluster.home / "mlflow.db").stat().st_size > 0


@pytest.mark.nightly
def test_a_finished_one_goes_on_from_its_store(desk: Desk):
    """Nothing is measured anew, and nothing is shown of what the job before it printed."""
    again = end(desk.submit("twice", *SHORT))
    assert again[0] == 0, again
    assert "good: 8 shards of scan, 8 already measured" in again[1]
    assert ", 0 already measured" not in again[1] and again[1].count("preparing good") == 1


@pytest.mark.nightly
def test_what_a_job_ends_with_is_what_submit_ends_with(desk: Desk):
    code, _, stderr = end(desk.submit("beyond", *SHORT[:-1], "17"))
    assert code == 2, stderr
    said = re.fullmatch(r"erasure-sweep: job (beyond-\w+) failed: (.*17.*)\n", stderr)
    assert said is not None, stderr
    code, stdout, _ = desk.run("status", said[1])
    assert code == 0
    assert "FAILED with exit code 2" in stdout and f"failed: {said[2]}" in stdout


def job_of(process: subprocess.Popen[str]) -> str:
    """Id of a submitted job, from the first line that it printed."""
    assert process.stdout is not None
    job = re.search(r"\blong-[0-9a-f]{12}\b", process.stdout.readline())
    assert job is not None
    return job[0]


def test_leave_return_stop_and_go_on(desk: Desk, out: Path, monkeypatch: pytest.MonkeyPatch):
    first = desk.submit("long", *LONG)
    job = job_of(first)
    store = desk.out("long") / ".store"
    wait_until(lambda: len(list(store.rglob("*.state"))) >= 3, first)
    desk.hold_workers()

    first.send_signal(signal.SIGINT)
    code, _, stderr = end(first)
    assert code == 130
    assert stderr.startswith(f"erasure-sweep: job {job} goes on: ") and len(stderr.splitlines()) == 1

    second, anew = desk.submit("long", *LONG), desk.submit("long", *LONG, "--fresh")
    listing = desk.start("status", "--address", desk.cluster.dashboard)
    assert job_of(second) == job
    code, _, stderr = end(anew)
    assert code == 2 and stderr.startswith(f"erasure-sweep: job {job} is running already: stop it first"), stderr
    assert re.search(rf"^{job} +RUNNING, begun ", end(listing)[1], re.MULTILINE)

    code, stdout, stderr = desk.run("stop", job)
    assert (code, stderr) == (0, "") and stdout.startswith(f"{job}  STOPPED")
    code, _, stderr = end(second)
    assert code == 130, stderr
    assert stderr == f"erasure-sweep: job {job} was stopped: the same `submit` goes on from there\n"
    manifest = json.loads((desk.out("long") / "manifest.json").read_text())
    assert [model["state"] for model in manifest["models"]] == ["KILLED"]
    done = len(list(store.rglob("*.state")))
    assert 3 <= done < 50

    again = end(desk.submit("long", *LONG))
    assert again[0] == 0, again
    assert f"good: 50 shards of scan, {done} already measured" in again[1]
    assert desk.measured("long", again).tables() == undisturbed(desk, "long", out, LONG, monkeypatch)


def test_another_token_is_refused(desk: Desk):
    for variables in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        code, stdout, stderr = desk.run("submit", "demo", **variables)
        assert (code, stdout) == (1, "")
        assert re.fullmatch(
            r"erasure-sweep: the cluster at http://\S+ asks for its token, .*RAY_AUTH_MODE=token.*\n", stderr
        )
