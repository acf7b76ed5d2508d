"""The wheel: what is in it, and that it runs beside a user's own ``workers/``, ``sweep.py`` and ``dashboards/``.

It is built without network and unpacked by pip into an environment that borrows everything else from this one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import erasure_sweep as es
from erasure_sweep.workers.code_identity import FOLDERS, hash_code
from tests.support.models.random_models import write_tl_directory
from tests.support.paths import ROOT

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(1500)]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_IN_IT = {"__pycache__", ".DS_Store"}


def own_files() -> set[str]:
    """Every file that the package consists of, as it is called in the wheel."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    files = [path.relative_to(ROOT) for path in inside]
    return {"erasure_sweep/__init__.py"} | {
        f"erasure_sweep/{file.as_posix()}" for file in files if not NOT_IN_IT & set(file.parts)
    }


class Built(NamedTuple):
    """The two archives."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both made from a copy of the checkout, in which 0.1.0 was built once."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_checkout(folder / "source")
    left = folder / "source" / "build" / "lib" / "sweep" / "cli.py"
    left.parent.mkdir(parents=True)
    left.touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel"]
    command += ["--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


def copy_checkout(target: Path) -> None:
    """What the two archives are made from."""
    ignored = shutil.ignore_patterns(*NOT_IN_IT, "*.egg-info")
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py"):
        shutil.copy(ROOT / name, target)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=ignored)


def test_every_folder_with_modules_is_a_package_that_is_listed():
    folders = {file.rpartition("/")[0].replace("/", ".") for file in own_files() if file.endswith(".py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders
    assert all((ROOT / folder.partition(".")[2].replace(".", "/") / "__init__.py").exists() for folder in folders)


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Built):
    names = set(zipfile.ZipFile(built.wheel).namelist())
    version = PROJECT["project"].get("version") or built.wheel.name.split("-")[1]
    assert {name for name in names if not name.startswith(f"erasure_sweep-{version}.dist-info/")} == own_files()


def test_the_source_archive_holds_all_that_a_wheel_is_built_from(built: Built):
    with tarfile.open(built.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {f"erasure_sweep/{name}" for name in names} >= own_files()
    assert {"pyproject.toml", "LICENSE", "README.md"} <= names


class Installed(NamedTuple):
    """A Python in which the wheel is installed."""

    python: Path
    site_packages: Path

    def run(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """Run it, without what points this process to the checkout, and return what it printed."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**own, **variables})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new environment: the wheel by pip, and a line that lets it see what is installed here."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    site_packages = Path(paths["purelib"])
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*command, f"--prefix={folder}", "--ignore-installed", str(built.wheel)], check=True)
    # A .pth line that is a path is appended behind this environment's own packages, and .pth files there are not read.
    (site_packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Installed(folder / "bin" / "python", site_packages)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a model, a corpus, a script, and files of their own with names that this project has as well."""
    folder = tmp_path_factory.mktemp("project")
    write_tl_directory(folder / "model")
    np.save(folder / "corpus.npy", np.random.default_rng(0).integers(0, 97, (8, 16)))
    for name in ("workers", "dashboards"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('the user has {name} of their own')\n")
    for name in ("workers.py", "sweep.py"):
        (folder / name).write_text(f"raise RuntimeError('the user has {name} of their own')\n")
    config = {
        "name": "beside",
        "models": ["./model"],
        "corpus": "./corpus.npy",
        "prompts": 8,
        "seq_len": 16,
        "stage": "scan",
    }
    (folder / "beside.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / "study.py").write_text(
        "import sys\n"
        "import erasure_sweep as es\n"
        "if __name__ == '__main__':\n"
        "    config = es.load_config('beside.yaml')\n"
        "    es.run(config.model_copy(update={'workers': int(sys.argv[1]), 'out': sys.argv[2]}))\n"
    )
    return folder


def test_nothing_else_lands_in_site_packages(installed: Installed):
    there = {path.name for path in installed.site_packages.iterdir()} - {"__pycache__", "borrowed.pth"}
    assert {name for name in there if not name.endswith(".dist-info")} == {"erasure_sweep"}
    assert [name.partition("-")[0] for name in there if name.endswith(".dist-info")] == ["erasure_sweep"]


def test_what_is_installed_runs_the_code_of_the_checkout(installed: Installed, project: Path):
    code = (
        "import sys, erasure_sweep\n"
        "assert 'torch' not in sys.modules\n"
        "from erasure_sweep.workers.code_identity import code_identity\n"
        "print(*code_identity(), sep='\\n')\n"
    )
    code_hash, folder = installed.run("-c", code, cwd=project).splitlines()
    assert Path(folder) == installed.site_packages / "erasure_sweep"
    assert code_hash == hash_code(ROOT)


def test_it_measures_beside_a_users_own_folders(
    installed: Installed, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In-process by a script and with a Ray worker by the command: the tables are those of the checkout."""
    variables = {
        "ERASURE_SWEEP_STAGING": str(project / "staging"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
    }
    command = str(installed.python.parent / "erasure-sweep")
    installed.run("study.py", "0", "script", cwd=project, **variables)
    installed.run(command, "run", "beside.yaml", "--workers", "1", "--out", "command", cwd=project, **variables)
    monkeypatch.chdir(project)
    expected = es.run(es.load_config("beside.yaml").model_copy(update={"workers": 0, "out": "checkout"}))
    assert "writers" in expected
    for out in ("script", "command"):
        for name, table in expected.items():
            found = pd.read_parquet(project / out / "model" / "tables" / f"{name}.parquet")
            pd.testing.assert_frame_equal(found, table, check_exact=True)
