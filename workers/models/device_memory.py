"""Whether a device has room for a model's weights, asked before they are read."""

from __future__ import annotations

import psutil
import torch

from erasure_sweep.workers.errors import DataError


def refuse_larger_than(device: torch.device, n_weights: int, dtype: torch.dtype) -> None:
    """Refuse weights for which a device has too little memory, all of it counted; a model runs on one device.

    Args:
        n_weights: how many numbers they are.
        dtype: of the weights on the device.

    Raises:
        DataError: they are larger.
    """
    needed, room = n_weights * dtype.itemsize, device_memory(device)
    if needed > room:
        has = "its GPU" if device.type == "cuda" else "the machine"
        half = "" if dtype == torch.bfloat16 else "; --dtype bfloat16 takes less"
        raise DataError(
            f"the weights take {needed / 2**30:,.1f} GiB in {str(dtype).removeprefix('torch.')}, and {has} has "
            f"{room / 2**30:,.1f} GiB of memory: a model is measured on one device{half}"
        )


def device_memory(device: torch.device) -> int:
    """Bytes of memory that a device has, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
