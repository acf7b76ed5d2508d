"""A model of many writers, from the command line to its page: a thousand of them read by as many heads, on next to no tokens.

There measuring is little and everything else is much: pairs that are merged, written as tables and drawn. The processor time
of all processes of the run stands beside that of bare forward passes over as many prompts as there are writers: verify runs
the model once for each writer at least, so a run cannot fall far below that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from erasure_sweep.workers.models.forward import LeanModel
from tests.benchmarks.settings import Settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, spread
from tests.support.models.random_models import write_tl_directory
from tests.support.paths import ROOT

SUBJECT = "large"
PROMPTS, CORPUS_PROMPTS, SEQ_LEN = 2, 16, 8
MB = 1_000_000
_COMMAND = "from erasure_sweep.sweep.commands.main import main; main()"


def measure_large(settings: Settings) -> Iterator[Row]:
    """Rows for one run in this machine's processes, without Ray."""
    config = settings.large
    shape = f"{config.n_layers} × {config.n_heads} heads, {PROMPTS} prompts of {SEQ_LEN} tokens"
    n_writers = len(config.layout.writers)
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        root = Path(folder)
        widths = {"d_head": config.d_head, "d_mlp": config.d_mlp, "n_ctx": config.n_ctx, "d_vocab": config.d_vocab}
        write_tl_directory(root / "model", 0, config.n_layers, config.n_heads, config.d_model, **widths)
        np.save(root / "tokens.npy", random_prompts(config, CORPUS_PROMPTS, SEQ_LEN).numpy())
        start = time.perf_counter()
        cpu_s, peak_mb = _run(root, settings.threads)
        wall_s = time.perf_counter() - start
        page_mb = (root / "out" / "model" / "index.html").stat().st_size / MB
        tables_mb = sum(path.stat().st_size for path in root.glob("out/model/tables/*.parquet")) / MB
    bare_s = _bare_s(settings) * n_writers
    beside = f"bare forward passes over {n_writers} prompts"
    details = {"cpu_s": cpu_s, "wall_s": wall_s, "bare_cpu_s": bare_s}
    yield Row(
        SUBJECT, shape, "run, all stages, by processor time", "×", spread([cpu_s / bare_s]), beside, details=details
    )
    yield Row(SUBJECT, shape, "the same", "CPU s", spread([cpu_s]))
    yield Row(SUBJECT, shape, "the same by the clock", "s", spread([wall_s]))
    yield Row(SUBJECT, shape, "the largest of its processes", "MB", spread([peak_mb]))
    yield Row(SUBJECT, shape, "the model's page", "MB", spread([page_mb]))
    yield Row(SUBJECT, shape, "its tables", "MB", spread([tables_mb]))


def _run(root: Path, threads: int) -> tuple[float, float]:
    """Processor seconds of a run's processes, and the peak memory of the largest."""
    values = {
        "model": root / "model",
        "corpus": root / "tokens.npy",
        "prompts": PROMPTS,
        "seq-len": SEQ_LEN,
        "workers": 0,
    }
    values |= {"out": root / "out", "tracking-uri": f"sqlite:///{root / 'mlflow.db'}"}
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    with (root / "run.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "run", *flags], cwd=root, env=environment, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)  # what its own processes used is in it
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}: {(root / 'run.txt').read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB


def _bare_s(settings: Settings) -> float:
    """Processor seconds of a bare forward pass of a prompt, one of several that go together."""
    config = settings.large
    model, prompts = LeanModel(config, random_weights(config)), random_prompts(config, CORPUS_PROMPTS, SEQ_LEN)
    model.logits(prompts)
    start = time.process_time()
    for _ in range(settings.rounds):
        model.logits(prompts)
    return (time.process_time() - start) / settings.rounds / CORPUS_PROMPTS
