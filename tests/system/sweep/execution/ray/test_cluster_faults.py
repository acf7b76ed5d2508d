"""Sweeps as jobs on a cluster of several nodes, with the store on S3, while things are killed under them."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import erasure_sweep as es
from erasure_sweep.sweep.plan import sweep_id
from erasure_sweep.workers.measures.registry import table_names
from tests.support.servers.chaos import KINDS, Chaos
from tests.support.servers.cluster import ERASURE_SWEEP, HandCluster
from tests.support.servers.s3 import S3Server
from tests.system.sweep.test_driver import Place, assert_same, read

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("helper")]

LONGER = {"prompts": 24, "block_prompts": 1, "attempts": 10}
"""More shards, so that there is time to kill something, and patience with one that is killed again and again."""
N_SHARDS = 3 * 24
SCANNED = tuple(table_names("scan", "paths"))


class Trials:
    """A cluster of two workers, an S3 and models that all trials of a file share."""

    def __init__(self, root: Path, s3: S3Server, cluster: HandCluster) -> None:
        self.place, self.s3, self.cluster = Place(root), s3, cluster

    def config(self, name: str, **changes: object) -> Path:
        """The YAML of a sweep whose store is on S3."""
        config = self.place.config(name, **{**LONGER, "store": self.s3.uri(name), "name": name, **changes})
        path = self.place.root / f"{name}.yaml"
        path.write_text(json.dumps(config.model_dump(exclude_none=True)))  # JSON is YAML
        return path

    def done(self, name: str) -> int:
        """How many shards of a sweep are in its store."""
        return sum(key.endswith(".state") for key in self.s3.keys(f"{name}/"))


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with S3Server() as s3, HandCluster(**s3.environment()) as cluster:
        cluster.add_workers(2)
        yield Trials(tmp_path_factory.mktemp("faults"), s3, cluster)


@pytest.fixture(scope="module")
def undisturbed(trials: Trials) -> dict[str, pd.DataFrame]:
    return es.run(trials.place.config("undisturbed", workers=0, **LONGER))


@pytest.mark.nightly
def test_kills_at_random_moments_end_in_the_undisturbed_tables(
    trials: Trials, undisturbed: dict[str, pd.DataFrame]
) -> None:
    chaos = Chaos(trials.cluster, trials.config("killed"), lambda: trials.done("killed"), random.Random(0))
    chaos.run(N_SHARDS)
    assert sorted(chaos.killed) == sorted(KINDS)
    assert_same(read(trials.place, "killed"), undisturbed)


@pytest.mark.nightly
def test_two_sweeps_at_once(trials: Trials) -> None:
    """Both on the same nodes and the same store; the second over fewer prompts, so another sweep."""
    sizes = {"first": 12, "second": 6}
    paths = [trials.config(name, stage="scan", prompts=n, store=trials.s3.uri("both")) for name, n in sizes.items()]
    command = [ERASURE_SWEEP, "submit", "--address", trials.cluster.dashboard]
    jobs = [
        subprocess.Popen([*command, str(path)], env=trials.cluster.environment(), stderr=subprocess.PIPE, text=True)
        for path in paths
    ]
    for job in jobs:
        _, stderr = job.communicate()
        assert job.returncode == 0, stderr
    for name, n in sizes.items():
        alone = trials.place.config(f"{name}-alone", workers=0, stage="scan", **{**LONGER, "prompts": n})
        expected, found = es.run(alone), read(trials.place, name, *SCANNED)
        for table in SCANNED:
            pd.testing.assert_frame_equal(found[table], expected[table], check_exact=True)
        assert any(key.startswith(f"both/{sweep_id(alone)}/") for key in trials.s3.keys("both/"))
    assert len({key.split("/")[1] for key in trials.s3.keys("both/")}) == 2
