"""With which numerics a process measures: the same for the same kernels, and other ones are told apart in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from erasure_sweep.sweep.execution.executor import LocalExecutor, other_numerics
from erasure_sweep.sweep.execution.ray import numerics
from erasure_sweep.sweep.execution.ray.numerics import choose
from erasure_sweep.sweep.store.shards import ShardStore
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.numerics import numerics_on
from erasure_sweep.workers.records import Numerics
from erasure_sweep.workers.storage.shard_storage import open_storage
from tests.support.numerics import numerics_in_another_process

AVX512 = Numerics("cpu", "AVX512", "2.9.0", "MKL and oneDNN", "highest", "aaaaaaaa")
AVX2 = AVX512._replace(unit="AVX2", probe="bbbbbbbb")


def test_they_are_the_same_in_every_process_and_for_any_number_of_threads() -> None:
    own = numerics_on("cpu")
    torch.set_num_threads(3)
    assert numerics_on("cpu") == own and torch.get_num_threads() == 3
    assert numerics_in_another_process(OMP_NUM_THREADS="2") == own


def test_other_kernels_are_seen_by_name_and_by_what_they_compute() -> None:
    own, other = numerics_on("cpu"), numerics_in_another_process(ATEN_CPU_CAPABILITY="default")
    if own.unit == "DEFAULT":
        pytest.skip("this CPU has nothing beyond the least")
    assert (other.unit, other.torch) == ("DEFAULT", own.torch)
    assert other.probe != own.probe


def test_another_precision_is_seen() -> None:
    own = numerics_on("cpu")
    torch.set_float32_matmul_precision("medium")
    try:
        assert numerics_on("cpu").precision == "medium"
        with pytest.raises(SweepError, match=r"this process .*float32 precision medium against highest"):
            LocalExecutor(1, own)
    finally:
        torch.set_float32_matmul_precision("highest")
    LocalExecutor(1, own)


def test_the_line_names_what_differs() -> None:
    assert AVX2.differs_from(AVX512) == "AVX2 against AVX512"
    assert AVX2._replace(torch="2.8.0").differs_from(AVX512) == "AVX2 against AVX512, torch 2.8.0 against 2.9.0"
    assert "other digits (bbbbbbbb against aaaaaaaa)" in AVX512._replace(probe="bbbbbbbb").differs_from(AVX512)
    assert AVX512.differs_from(AVX512) == ""
    assert "--fresh or another --out" in other_numerics("anna", AVX2, AVX512)


def test_a_cluster_measures_with_the_least_of_its_cpus_and_with_most_of_its_gpus() -> None:
    one, two = Numerics("cuda", "A", probe="1"), Numerics("cuda", "B", probe="2")
    assert choose([AVX512, AVX512, AVX2]) == AVX2
    assert choose([one, two, two]) == two


class TestACluster:
    """Of which nodes are asked, with answers made up."""

    @staticmethod
    def ask(monkeypatch: pytest.MonkeyPatch, *rounds: tuple[list[Numerics], str]) -> Numerics:
        cluster: Any = SimpleNamespace(watch=lambda: None)
        answers = iter(rounds)
        monkeypatch.setattr(numerics, "_ask", lambda *_: [])
        monkeypatch.setattr(numerics, "_answers", lambda *_: next(answers))
        return numerics.cluster_numerics(cluster, 1, "cpu", print)

    def test_one_whose_worker_was_lost_is_asked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask(monkeypatch, ([], "the actor died"), ([AVX2], "")) == AVX2

    def test_one_where_nobody_can_measure_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SweepError, match="no worker can measure: other code"):
            self.ask(monkeypatch, *[([], "other code")] * numerics.ATTEMPTS)


@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"cpu": 3}', b'{"cpu": {"unit": "x", "other": 1}}'])
def test_a_store_keeps_them_for_each_kind_of_device(tmp_path, damaged: bytes) -> None:
    storage, gpu = open_storage(tmp_path), Numerics("cuda", "A")
    storage.put(f"ab/{'ab' * 16}.state", b"a shard")  # without any the note binds nobody
    store = ShardStore(storage)
    assert store.numerics("cpu") is None
    store.note_numerics(AVX2)
    store.note_numerics(gpu)
    assert (store.numerics("cpu"), store.numerics("cuda")) == (AVX2, gpu)
    (tmp_path / "numerics.json").write_bytes(damaged)
    assert store.numerics("cpu") is None
    store.note_numerics(AVX512)
    assert store.numerics("cpu") == AVX512
