"""The hash of the code: the same wherever the same modules lie, another one for any other code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erasure_sweep.workers.code_identity import FOLDERS, code_identity, hash_code
from tests.support.paths import ROOT


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the modules alone, as a wheel has them."""
    copy = tmp_path / "site-packages" / "erasure_sweep"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("bundled", "__pycache__"))
    shutil.copy(ROOT / "__init__.py", copy)
    for path in (ROOT / "workers/models/bundled").glob("*.py"):
        (copy / "workers/models/bundled").mkdir(exist_ok=True)
        shutil.copy(path, copy / "workers/models/bundled")
    return copy


def test_a_copy_of_the_modules_has_the_hash_of_the_checkout(package: Path):
    assert hash_code(package) == hash_code(ROOT) == code_identity().hash
    assert Path(code_identity().folder).resolve() == ROOT


def test_what_is_no_module_of_the_package_does_not_count(package: Path):
    before = hash_code(package)
    for name in (
        "tests/test_it.py",
        "build/lib/a.py",
        ".venv/lib/b.py",
        "sweep/.ipynb_checkpoints/plan.py",
        "sweep/.#plan.py",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("something = 1\n")
    (package / "build" / "erasure_sweep").symlink_to(package)
    (package / "workers" / "notes.txt").write_text("notes")
    assert hash_code(package) == before


@pytest.mark.parametrize("change", ["content", "name", "new", "root"])
def test_any_other_code_has_another_hash(package: Path, change: str):
    before, module = hash_code(package), package / "workers" / "labels.py"
    if change == "content":
        module.write_text(module.read_text() + "\n")
    elif change == "name":
        module.rename(module.with_name("label.py"))
    elif change == "new":
        module.with_name("new.py").touch()
    else:
        (package / "__init__.py").write_text("")
    assert hash_code(package) != before


def test_it_takes_no_torch():
    code = "import sys, erasure_sweep.workers.code_identity as c; c.code_identity(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
