"""`make` renews a .venv that was made for another checkout or for other requirements, by a Python that only notes its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


class Checkout:
    """The Makefile and what it reads, with a .venv that works as far as `make` can see."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, folder / "calls"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        python = self.venv / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\n[ "$2" != pip ] || echo "$*" >> {self._calls}\n')
        python.chmod(0o755)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    def make(self, target: str) -> list[str]:
        """The calls of pip that it came to."""
        self._calls.write_text("")
        subprocess.run(["make", "-s", target], cwd=self.folder, check=True, capture_output=True)
        return self._calls.read_text().splitlines()


RUNTIME = ["-m pip install -c constraints.txt -e ."]
DEV = ["-m pip install -c constraints.txt -e .[dev]"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_installs_once(checkout: Checkout):
    assert checkout.make("runtime") == RUNTIME
    assert checkout.make("runtime") == []
    assert checkout.make("dev") == DEV
    assert checkout.make("runtime") == checkout.make("dev") == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed_whatever_their_time(checkout: Checkout, name: str):
    """Times of files from an archive are those of the release, before the .venv of an older one was made."""
    checkout.make("dev")
    path = checkout.folder / name
    path.write_text(path.read_text() + "# of another version\n")
    os.utime(path, (1, 1))
    assert checkout.make("runtime") == RUNTIME
    assert checkout.make("dev") == DEV
    assert checkout.make("dev") == []


def test_the_environment_of_0_1_0_is_renewed(checkout: Checkout):
    """It has stamps that are newer than every file, and says only where it was made."""
    (checkout.venv / ".place").write_text(f"{checkout.folder}\n")
    (checkout.venv / ".runtime").touch()
    (checkout.venv / ".dev").touch()
    assert checkout.make("runtime") == RUNTIME
    assert checkout.make("dev") == DEV


def test_a_checkout_that_was_moved_is_installed_anew(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory):
    checkout.make("runtime")
    moved = tmp_path_factory.mktemp("moved") / "checkout"
    shutil.copytree(checkout.folder, moved)
    subprocess.run(["make", "-s", "runtime"], cwd=moved, check=True, capture_output=True)
    assert (moved / ".venv" / ".installed").read_text().startswith(f"{moved}\n")
