"""What every test starts from: one thread per worker, fixed seeds."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import pytest

# Under pytest-xdist each worker is a process of its own: more threads than one would only fight over the cores. Set before
# anything imports torch, which reads it then. (Importing torch here would slow down every run that needs none of it.)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
