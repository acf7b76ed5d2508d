"""With which numerics another process measures."""

from __future__ import annotations

import json
import subprocess
import sys

from erasure_sweep.workers.records import Numerics
from tests.support.bad_input import environment


def numerics_in_another_process(**changes: str) -> Numerics:
    """Those on its CPU, with these changes to its environment."""
    script = (
        "import json; from erasure_sweep.workers.numerics import numerics_on; print(json.dumps(numerics_on('cpu')))"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=True)
    return Numerics(*json.loads(ran.stdout))
