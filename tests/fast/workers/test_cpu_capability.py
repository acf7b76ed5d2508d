"""A CPU held to less than it can: by the environment, before torch is imported, and never against the user's own word."""

from __future__ import annotations

import pytest

from erasure_sweep.workers import cpu_capability
from erasure_sweep.workers.cpu_capability import hold_to

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize(
    ("native", "asked", "held"),
    [
        ("AVX512", "AVX2", AVX2),
        ("AVX512", "DEFAULT", {"ATEN_CPU_CAPABILITY": "default"}),
        ("AVX2", "DEFAULT", {"ATEN_CPU_CAPABILITY": "default"}),
        ("AVX2", "AVX2", {}),
        ("AVX2", "AVX512", {}),
        ("", "DEFAULT", {}),
        ("AVX512", "SVE256", {}),
        ("AVX512", "", {}),
    ],
)
def test_only_downwards(native: str, asked: str, held: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_capability, "_native", lambda: native)
    environment: dict[str, str] = {}
    hold_to(asked, environment)
    assert environment == held


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_capability, "_native", lambda: "AVX512")
    environment = {"ATEN_CPU_CAPABILITY": "avx512"}
    hold_to("AVX2", environment)
    assert environment == {"ATEN_CPU_CAPABILITY": "avx512"}
