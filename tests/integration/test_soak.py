"""The long trial: everything killed at random moments, again and again, until the sweep is through."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

import sweep
from tests.integration.test_driver import Place, assert_same, kill_tree, read

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("ray"), pytest.mark.timeout(3600)]


@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments_end_in_the_undisturbed_tables(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = Place(tmp_path_factory.mktemp("soak"))
    undisturbed = sweep.run(place.config("undisturbed", workers=0))
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
