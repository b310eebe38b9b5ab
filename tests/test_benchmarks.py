"""The benchmark of a GPU runs whole on a CPU, in its small form: what a lent GPU's minutes are not to be spent on finding out."""

from __future__ import annotations

import re

from benchmarks.gpu import HEADS, main


def test_the_gpu_benchmark_in_its_small_form(tmp_path):
    main(["--device", "cpu", "--small", "--output", str(tmp_path / "GPU.md")])
    written = (tmp_path / "GPU.md").read_text()
    assert re.match(r"# On .+\n\n\d{4}-\d\d-\d\d, torch ", written)
    for head in HEADS.values():
        assert f"| {head[0]} |" in written
    assert "| 0.0e+00 | 0.0e+00 | 0.0e+00 | 100.000 % |" in written  # the CPU against itself
    assert "accumulate 2" in written and "bfloat16" in written and "stopped at iteration 5 of 8 | 0.0e+00" in written
