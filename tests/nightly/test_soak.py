"""The long trials: things killed at random moments until a sweep is through, here and on a cluster; and GPT-2 XL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console

import erasure_sweep as es
from erasure_sweep.sweep.config import build_config
from tests.support.models.random_models import random_config, write_hf_gpt2_shards
from tests.support.servers.chaos import KINDS, Chaos
from tests.support.servers.cluster import HandCluster
from tests.support.servers.s3 import S3Server
from tests.system.sweep.execution.ray.test_cluster_faults import LONGER, N_SHARDS, Trials
from tests.system.sweep.test_driver import Place, assert_same, kill_tree, read

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(3600)]

GPT2_XL = {"n_layers": 48, "n_heads": 25, "d_model": 1600, "n_ctx": 1024, "d_vocab": 50257, "act_fn": "gelu_new"}
MEMORY_GIB = 24.0
"""What a usual workstation has."""
CONVERSION_GIB = 10.0

RESOLVE = """
import sys, pathlib
from erasure_sweep.workers.models.resolve_model import resolve_model
print(resolve_model(sys.argv[1], pathlib.Path(sys.argv[2])).weights)
"""
FORWARD = """
import sys, pathlib, time
from erasure_sweep.workers.models.processing.logits_check import check_tokens
from erasure_sweep.workers.models.resolve_model import load_model
config, model = load_model(pathlib.Path(sys.argv[1]))
model.logits(check_tokens(config))
start = time.perf_counter()
model.logits(check_tokens(config))
print(time.perf_counter() - start)
"""


class Measured(NamedTuple):
    """What a command took."""

    output: str
    seconds: float
    gib: float
    """Peak of resident memory: of all its processes, but what they map from files, the weights, once."""


def measured(*command: str) -> Measured:
    start, peak_kib = time.monotonic(), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    while process.poll() is None:
        found = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        resident = [resident_kib(pid) for pid in found]
        own = sum(kib["RssAnon"] + kib["RssShmem"] for kib in resident)
        mapped = max(kib["RssFile"] for kib in resident)
        single = max(kib["VmHWM"] for kib in resident)  # what was highest between two looks
        peak_kib = max(peak_kib, own + mapped, single)
        time.sleep(0.1)
    output = process.communicate()[0]
    assert process.returncode == 0
    return Measured(output.strip(), time.monotonic() - start, peak_kib / 2**20)


def resident_kib(pid: int) -> dict[str, int]:
    """Resident memory of a process by kind, as Linux counts it; none once it has ended."""
    kinds = dict.fromkeys(("RssAnon", "RssFile", "RssShmem", "VmHWM"), 0)
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        kinds |= {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split(":")[0] in kinds}
    return kinds


def write_scan(place: Path) -> Path:
    """The config of a scan of a model on two prompts, both in a folder."""
    np.save(place / "corpus.npy", np.random.default_rng(0).integers(0, GPT2_XL["d_vocab"], (2, 128)))
    values = {"name": "xl", "models": [str(place / "model")], "corpus": str(place / "corpus.npy"), "stage": "scan"}
    places = {"out": str(place / "out"), "staging": str(place / "staging")}
    config = build_config(
        {
            **values,
            **places,
            "prompts": 2,
            "seq_len": 128,
            "workers": 0,
            "cpus_per_worker": os.cpu_count() or 1,
            "tracking_uri": f"sqlite:///{place}/mlflow.db",
        }
    )
    path = place / "xl.yaml"
    path.write_text(json.dumps(config.model_dump(exclude_none=True)))  # JSON is YAML
    return path


@pytest.mark.timeout(4 * 3600)
def test_gpt2_xl_fits_into_a_workstation(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resolved from half-precision shards, then scanned, every component a writer, in the driver's own process."""
    place = tmp_path_factory.mktemp("xl")
    write_hf_gpt2_shards(place / "model", random_config(**GPT2_XL))
    resolved = measured(sys.executable, "-c", RESOLVE, str(place / "model"), str(place / "staging"))
    forward = float(measured(sys.executable, "-c", FORWARD, resolved.output).output)
    scan = write_scan(place)
    scanned = measured(sys.executable, "-m", "erasure_sweep.sweep.commands", "run", str(scan))
    with capsys.disabled():
        for name, found in (("conversion", resolved), ("scan", scanned)):
            ratio = found.seconds / forward
            Console().print(f"\nGPT-2 XL, {name}: {found.gib:.1f} GiB, {ratio:,.0f} forward passes of 64 tokens")
    writers = pd.read_parquet(place / "out" / "model" / "tables" / "writers.parquet")
    assert len(writers) == 2 + 48 * (25 + 1)
    assert resolved.gib < CONVERSION_GIB
    assert scanned.gib < MEMORY_GIB


@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments_end_in_the_undisturbed_tables(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = Place(tmp_path_factory.mktemp("soak"))
    undisturbed = es.run(place.config("undisturbed", workers=0))
    chance = random.Random(seed)
    command = place.command("killed", "--workers", str(chance.choice([0, 1, 2])))
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + chance.uniform(10.0, 45.0)
        while process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        kill_tree(process)
        kills += 1
    assert process.returncode == 0, process.stderr.read() if process.stderr else ""
    assert kills > 0
    assert_same(read(place, "killed"), undisturbed)


@pytest.mark.parametrize("seed", range(1, 11))
def test_kills_on_a_cluster_end_in_the_undisturbed_tables(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two workers, two nodes and the driver twice, in an order and at moments drawn by the seed."""
    with S3Server() as s3, HandCluster(**s3.environment()) as cluster:
        cluster.add_workers(2)
        trials = Trials(tmp_path_factory.mktemp("chaos"), s3, cluster)
        undisturbed = es.run(trials.place.config("undisturbed", workers=0, **LONGER))
        chaos = Chaos(cluster, trials.config("killed"), lambda: trials.done("killed"), random.Random(seed))
        chaos.run(N_SHARDS, KINDS * 2)
        assert sorted(chaos.killed) == sorted(KINDS * 2)
        assert_same(read(trials.place, "killed"), undisturbed)
