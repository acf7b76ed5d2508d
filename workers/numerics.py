"""What decides the last digits on this machine: the version of torch, which kernels it chooses here, and a proof by example.

Names of CPUs and libraries do not tell it all: a library may choose by the vendor of the CPU, by the size of its caches or
by the environment. So a few fixed products are computed, and a hash of every bit of them stands beside the names.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.records import Numerics


def numerics_on(device: str) -> Numerics:
    """Of this process, on a kind of device: ``cpu`` or ``cuda``."""
    return Numerics(
        device=device,
        unit=_gpu() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
        torch=str(torch.__version__),
        backend=f"CUDA {torch.version.cuda}" if device == "cuda" else _blas(),
        precision=torch.get_float32_matmul_precision(),
        probe=_probe(torch.device(device)),
    )


def _gpu() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (compute capability {major}.{minor})"


def _blas() -> str:
    libraries = {
        "MKL": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "oneDNN": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    }
    return " and ".join(name for name, there in libraries.items() if there) or "neither MKL nor oneDNN"


def _probe(device: torch.device) -> str:
    """Hash of a few results on one thread, whatever this process otherwise uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            results = [part for dtype in (torch.float32, torch.float64) for part in _examples(device, dtype)]
        return fingerprint(*(part.cpu().numpy().tobytes() for part in results), n_bytes=4)
    finally:
        torch.set_num_threads(threads)


def _examples(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """What forward passes and measures are made of, on numbers that every format holds exactly."""
    whole = np.arange(3 * 64 * 96, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**12)
    x = torch.from_numpy(whole.astype(np.float64) / 2**11 - 1).to(device, dtype).reshape(3, 64, 96)
    flat = x.reshape(192, 96)
    return [
        flat @ flat.T,
        torch.bmm(x, x.transpose(1, 2)),
        torch.einsum("bij,bkj->ik", x, x),
        functional.layer_norm(x, (96,)),
        functional.gelu(x, approximate="tanh"),
        torch.softmax(x, -1),
        torch.stack([x.exp().sum(), (x * x).mean(), x.std()]),
    ]
