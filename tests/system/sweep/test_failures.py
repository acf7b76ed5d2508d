"""What can go wrong while measuring: torn files, a full disk, an interrupt, MLflow down. It is said, and gone on from."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from erasure_sweep.workers.records import ShardResult, ShardTask
from tests.support.bad_input import (
    PROMPTS,
    Bench,
    Ran,
    assert_finished,
    assert_nothing_finished,
    assert_refused,
    environment,
)
from tests.support.models.transformers_models import write_llama_directory
from tests.support.waiting import wait_until


def log_of(ran: Ran) -> str:
    return (ran.out / "run.log").read_text()


# torn files


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one bit flipped": flip_a_bit,
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize(
    "name", ["cut short", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("one bit flipped", "empty"))]
)
def test_a_damaged_shard_is_measured_again(bench: Bench, out: Path, measured: Ran, name: str):
    before = {path: path.stat().st_mtime_ns for path in bench.run(out).shards()}
    damaged = list(before)[1]
    DAMAGE[name](damaged)
    ran = bench.run(out)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()
    assert f"{damaged} is damaged and is measured again" in log_of(ran)
    after = {path: path.stat().st_mtime_ns for path in ran.shards()}
    assert {path for path in before if after[path] != before[path]} == {damaged}


def test_a_shard_damaged_after_it_was_written_stops_the_model(
    bench: Bench, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    from erasure_sweep.sweep.store.shards import ShardStore

    whole = ShardStore.put
    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "put", lambda store, shard, state: whole(store, shard, state[:-1]))
        ran = bench.run(out)
    assert_refused(ran, 1, "the stored shard", "is damaged: run again")
    assert ran.states == {"good": "FAILED"} and set(ran.runs.values()) == {"FAILED"}
    again = bench.run(out)
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


def test_damaged_staged_weights_and_tokens_are_made_again(bench: Bench, out: Path, measured: Ran):
    staging = Path(os.environ["ERASURE_SWEEP_STAGING"])
    staged = [*staging.rglob("*.safetensors"), *staging.rglob("*.npy")]
    assert len(staged) >= 2
    for path in staged:
        os.truncate(path, path.stat().st_size // 2)
    ran = bench.run(out)
    assert_finished(ran, "good")
    assert ran.tables() == measured.tables()


# no room on the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a file system of so many KiB, or give the mounted one that size."""
    folder = tmp_path  # its name is the experiment's
    mounted = False

    def size(kib: int) -> Path:
        nonlocal mounted
        options = f"size={kib}k" + (",remount" if mounted else "")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
        mounted = True
        return folder

    yield size
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(
    ("kib", "what"),
    [(12, ""), pytest.param(32, ".state", marks=pytest.mark.nightly), (600, ".parquet"),
     pytest.param(4_700, "index.html", marks=pytest.mark.nightly)],
)  # fmt: skip
def test_a_full_disk(
    bench: Bench,
    small_disk: Callable[[int], Path],
    measured: Ran,
    monkeypatch: pytest.MonkeyPatch,
    kib: int,
    what: str,
):
    monkeypatch.setattr(bench, "pages", what.endswith(".html"))
    out = small_disk(kib) / "out"
    ran = bench.run(out)
    assert (ran.code, len(ran.stderr.splitlines())) == (1, 1), ran.stderr
    assert f"no room on the disk for {out}" in ran.line
    assert what in ran.line
    assert "FINISHED" not in {*ran.states.values(), *ran.runs.values()}
    assert "RUNNING" not in ran.runs.values()
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.html"))
    small_disk(40_000)
    again = bench.run(out)
    assert_finished(again, "good")
    assert again.tables() == measured.tables()


# interrupts


def start(
    bench: Bench, out: Path, *more: str, variables: Mapping[str, str] = MappingProxyType({}), **changes: object
) -> subprocess.Popen[str]:
    command = bench.command(out, *more, **changes)
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        start_new_session=True,
    )


def end(bench: Bench, out: Path, process: subprocess.Popen[str]) -> Ran:
    stdout, stderr = process.communicate()
    return bench.ran(process.returncode, stdout, stderr, out)


@pytest.mark.parametrize("kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_interrupted_and_gone_on(bench: Bench, out: Path, tmp_path: Path, kind: signal.Signals):
    """Ctrl-C reaches the whole process group, SIGTERM the one process; meanwhile another run is kept out."""
    np.save(tmp_path / "long.npy", np.random.default_rng(2).integers(0, 97, (800, 16)))
    long = {"corpus": tmp_path / "long.npy", "prompts": 800}
    process = start(bench, out, **long)
    wait_until(lambda: len(list(out.rglob("*.state"))) >= 3, process)
    if kind is signal.SIGINT:
        other = bench.run(out, **long)
        assert other.code == 1
        assert re.fullmatch(
            rf"erasure-sweep: another run \(\S+, process {process.pid}\) is working in {out}: wait for it, stop it "
            rf"\(erasure-sweep stop {out}\) or choose another --out",
            other.line,
        )
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    ran = end(bench, out, process)
    assert ran.code == 130, ran.stderr
    assert ran.stderr.split("\n")[-2:] == ["erasure-sweep: interrupted; the same command goes on from here", ""]
    assert "Traceback" not in ran.stderr
    assert_nothing_finished(ran)
    assert ran.states == {"good": "KILLED"} and set(ran.runs.values()) == {"KILLED"}
    done = len(ran.shards())
    assert 3 <= done < 100
    again = bench.run(out, **long)
    assert_finished(again, "good")
    assert f"good: 100 shards of scan, {done} already measured" in again.stdout


def test_an_interrupt_does_not_wait_for_what_is_being_staged(bench: Bench, out: Path, tmp_path: Path):
    """A hub that takes connections and never answers stands for a download that takes long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = start(bench, out, model="somebody/model", variables={"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)})
        try:
            silent.accept()  # it waits for an answer now
            os.killpg(process.pid, signal.SIGINT)
            ran = end(bench, out, process)
        finally:
            process.kill()
    assert ran.code == 130, ran.stderr
    assert_nothing_finished(ran)


# one of several things fails


def test_a_model_that_cannot_be_measured_does_not_stop_the_others(
    bench: Bench, out: Path, tmp_path: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    from erasure_sweep.workers.worker import ShardWorker

    other = write_llama_directory(tmp_path / "other", 5)
    measure, hashes = ShardWorker.measure, []

    def fail_on_other(worker: ShardWorker, task: ShardTask) -> ShardResult:
        hashes.append(task.model_hash)
        if task.model_hash == hashes[0] and task.first_prompt == 8:
            raise RuntimeError("first line\nthe device is on fire")
        return measure(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWorker, "measure", fail_on_other)
        ran = bench.run(out, "--model", str(other))
    assert ran.code == 1
    assert len([found for found in hashes if found == hashes[0]]) == 1 + 3  # a shard that fails is tried three times
    assert len(ran.stderr.splitlines()) == 1
    assert "other: 1 of 2 shards of scan failed 3 times" in ran.line and "the device is on fire" in ran.line
    assert ran.states == {"other": "FAILED", "good": "FINISHED"}
    assert ran.runs == {f"{out.parent.name} (2 models)": "FAILED", "other": "FAILED", "good": "FINISHED"}
    assert ran.tables() == measured.tables()
    assert not (out / "other" / "index.html").exists()
    assert "RuntimeError: first line" in log_of(ran) and "Traceback" in log_of(ran)
    again = bench.run(out, "--model", str(other))
    assert again.code == 0 and again.states == {"other": "FINISHED", "good": "FINISHED"}
    assert "other: 2 shards of scan, 1 already measured" in again.stdout


def test_out_of_gpu_memory_is_said_once_and_recorded(bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from erasure_sweep.workers.models.forward import LeanModel

    trace = LeanModel.trace

    def hungry(model: LeanModel, tokens: torch.Tensor, *told: object, **more: object) -> object:
        if len(tokens) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return trace(model, tokens, *told, **more)

    monkeypatch.setattr(LeanModel, "trace", hungry)
    ran = bench.run(out)
    assert_finished(ran, "good")
    (entry,) = json.loads((out / "manifest.json").read_text())["models"]
    assert entry["batch"] == 2
    assert ran.stdout.count("good: out of GPU memory, going on with 2 prompts in a forward pass") == 1


# MLflow goes down


def test_what_could_not_be_logged_is_logged_by_the_next_run(
    bench: Bench, out: Path, measured: Ran, monkeypatch: pytest.MonkeyPatch
):
    from erasure_sweep.sweep.tracking.tracker import Tracker, TrackingError

    def down(*args: object) -> None:
        raise TrackingError("MLflow at http://gone failed: results on disk are kept")

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log_model", down)
        ran = bench.run(out)
    assert ran.code == 1
    assert ran.line == "erasure-sweep: MLflow at http://gone failed: results on disk are kept"
    assert ran.states == {"good": "FINISHED"} and ran.tables() == measured.tables()
    assert "FINISHED" not in ran.runs.values()
    again = bench.run(out)
    assert_finished(again, "good")
    assert f"good: {PROMPTS // 8} shards of scan, {PROMPTS // 8} already measured" in again.stdout
