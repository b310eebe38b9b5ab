"""The reference cases beside the project: other people's results to hold minidetr against, absent on most machines.

Tests use it as `from tests.reference import REFERENCE, needs_reference`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference cases here: ../shared/reference is absent")
