"""The house: what lies where, what may import what, and that every file that tools read is one they accept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import torch
from jaxtyping import TypeCheckError

from erasure_sweep.sweep.config import load_config, preset_names
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.measures.statistics.quantile_sketch import bin_indices
from erasure_sweep.workers.version import VERSION
from tests.support.paths import ROOT

PACKAGES = {"sweep", "workers", "dashboards"}
TOP_LEVEL = PACKAGES | {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "__init__.py",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "docs",
    "pyproject.toml",
    "ray_cluster.yaml",
    "tests",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def git(*arguments: str) -> str | None:
    """What git prints in this tree; None where this is no working tree of git's."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def test_nothing_else_lies_at_the_top_level():
    found = {path.name for path in ROOT.iterdir()}
    assert found >= TOP_LEVEL
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    if listed:
        assert {name.partition("/")[0] for name in listed.splitlines()} <= TOP_LEVEL


@pytest.mark.xdist_group("kept")
def test_groups_of_tests_are_kept_together(request: pytest.FixtureRequest):
    """xdist writes a test's group behind its name; versions of pytest have made it write to no effect."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@kept")


def test_the_ci_script_can_be_run():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    code = (
        "import sys\n"
        "from erasure_sweep.sweep.commands.main import cli\n"
        "cli(sys.argv[1:], prog_name='erasure-sweep', standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'transformer_lens', 'plotly'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "erasure-sweep" in done.stdout


def test_shapes_are_checked_while_testing():
    with pytest.raises(TypeCheckError):
        bin_indices(torch.zeros(3, dtype=torch.int64))


class TestVersions:
    def test_changelog_begins_with_this_version(self):
        newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert newest is not None
        assert newest[1] == VERSION

    def test_constraints_name_plain_versions(self):
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pinned = [line for line in lines if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in pinned)
        assert "torch==2.13.0" in pinned

    @pytest.mark.parametrize("extra", [None, *PROJECT["project"]["optional-dependencies"]])
    def test_every_dependency_has_a_constraint_that_it_admits(self, extra: str | None):
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        pins = constraints()
        listed = PROJECT["project"]
        for line in listed["optional-dependencies"][extra] if extra else listed["dependencies"]:
            requirement = Requirement(line)
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line

    def test_this_environment_is_the_pinned_one(self):
        for name in ("torch", "ray", "mlflow", "transformer-lens", "pandas", "numpy", "plotly"):
            assert metadata.version(name).partition("+")[0] == constraints()[name]


def constraints() -> dict[str, str]:
    """Pinned version of each package."""
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


class TestPresets:
    @pytest.mark.parametrize("name", preset_names())
    def test_they_load(self, name: str):
        assert load_config(name).name == name

    def test_the_demo_is_offline(self):
        config = load_config()
        assert config.corpus == "stdlib"
        assert all(model.startswith("toy-") for model in config.models)

    def test_an_unknown_one_is_refused_with_the_nearest(self):
        with pytest.raises(UsageError, match="did you mean scaling"):
            load_config("scalling")
