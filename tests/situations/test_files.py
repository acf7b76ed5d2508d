"""Files of earlier runs that were damaged, exchanged or moved, or that are somebody else's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.bad_input import Bench, Ran, assert_finished, environment


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run whose folder is copied, never changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    ran = bench.run(out)
    assert_finished(ran, "good")
    return ran


@pytest.fixture
def copied(finished: Ran, out: Path) -> Path:
    """The folder that a finished run left, to be damaged."""
    shutil.copytree(finished.out, out)
    return out


@pytest.mark.parametrize("damage", ["exchanged", "cut short", "a bit flipped"])
def test_a_stored_shard_that_is_not_what_its_name_says(bench: Bench, copied: Path, finished: Ran, damage: str):
    """A finished shard that was copied over another's, cut short or altered.

    The checksum of a shard covers which shard it is. One that does not fit is named in a line and measured again; the
    tables are those of an undisturbed run.
    """
    first, second = sorted(copied.rglob("*.state"))[:2]
    content = second.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    second.write_bytes({"exchanged": first.read_bytes(), "cut short": content[:-9], "a bit flipped": flipped}[damage])
    ran = bench.run(copied)
    assert_finished(ran, "good")
    assert ran.tables() == finished.tables()
    assert "is damaged or another shard's: measured again" in "".join(ran.stdout.splitlines())
    assert second.read_bytes() == content


def test_the_second_half_of_a_sweep_on_another_cpu(bench: Bench, copied: Path, finished: Ran):
    """Half of a sweep measured, the rest on a machine whose CPU computes other last digits.

    The version of torch, its kernels and the digits of a few products belong to what a shard is. A process that computes
    otherwise measures nothing into the sweep, and says how the two differ and how to go on; the stored shards stay.
    """
    numerics = json.loads((copied / "manifest.json").read_text())["models"][0]["numerics"]
    if numerics["unit"] == "DEFAULT":
        pytest.skip("this CPU has nothing beyond the least")
    lost = sorted(copied.rglob("*.state"))[:4]
    for path in lost:
        path.unlink()
    kept = {path: path.read_bytes() for path in copied.rglob("*.state")}
    other = environment(ATEN_CPU_CAPABILITY="default")
    ran = subprocess.run(bench.command(copied), env=other, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    line = ran.stderr.splitlines()[-1]
    assert f"computes otherwise than the sweep's shards were (DEFAULT against {numerics['unit']})" in line
    assert "--fresh" in line
    assert {path: path.read_bytes() for path in copied.rglob("*.state")} == kept
    again = bench.run(copied)
    assert_finished(again, "good")
    assert again.tables() == finished.tables()
