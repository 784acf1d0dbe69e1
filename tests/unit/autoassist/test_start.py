"""With how many threads a role computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ASSISTANT = """
import sys
from autoassist.cli import main
assert "numpy" not in sys.modules
assert main(["assistant", "--broker", "tcp://127.0.0.1:9", "--connect-timeout-s", "0.01"]) == 1
from threadpoolctl import threadpool_info
threads = [pool["num_threads"] for pool in threadpool_info()]
sys.exit(0 if set(threads) == {1} else f"threads: {threads}")
"""


def test_an_assistant_computes_with_one_thread() -> None:
    """Its matrices are so small that the threads of BLAS cost tens of times what they do."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in threads}
    words = [sys.executable, "-c", ASSISTANT]
    done = subprocess.run(words, cwd=ROOT, env=environment, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
