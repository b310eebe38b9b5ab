"""Live through the start of a lesson on Colab, without Colab: `make colab-smoke`.

A fresh environment has torch, numpy and a Jupyter kernel before minidetr comes, as a hosted notebook has. A stand-in for
`google.colab` is imported when the kernel starts. Then every cell of the lessons runs, the set-up cell's very line first, with
nothing replaced but the repository's address, by a clone of this one with the tag of its version. Torch must be the same after.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
THERE = ("torch==2.8.0", "torchvision==0.23.0", "numpy==2.0.2", "ipykernel")
LESSONS = ("00", "10")


def run(*command: object, **how: object) -> str:
    """A command's output; its failure ends this script."""
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, **how).stdout


def main() -> None:
    """Build the environment, run the lessons, compare torch before and after."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        run(sys.executable, "-m", "venv", folder / "env")
        python = folder / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "-q", *THERE)
        torch_there = run(python, "-c", "import torch, numpy; print(torch.__version__, numpy.__version__)")
        print(f"there before: torch and numpy {torch_there.strip()}", flush=True)

        clone = folder / "clone"
        run("git", "clone", "-q", ROOT, clone)
        changed = run("git", "status", "--porcelain", cwd=ROOT)
        if changed:
            print(f"note: these changes are not committed, so the clone lacks them:\n{changed}")
        project = (clone / "pyproject.toml").read_text(encoding="utf-8")
        tag = "v" + re.search(r'^version = "(.*)"', project, re.MULTILINE)[1]
        address = re.search(r'^Repository = "(.*)"', project, re.MULTILINE)[1]
        run("git", "tag", "-f", tag, cwd=clone)

        stand_in = folder / "stand-in"
        (stand_in / "google" / "colab").mkdir(parents=True)
        (stand_in / "google" / "colab" / "__init__.py").write_text("")
        (stand_in / "sitecustomize.py").write_text("import google.colab\n")  # imported at every start, as Colab does
        kernels = folder / "jupyter"
        os.environ |= {"PYTHONPATH": str(stand_in), "JUPYTER_PATH": str(kernels), "PYTHONNOUSERSITE": "1"}
        run(python, "-m", "ipykernel", "install", "--prefix", folder / "prefix", "--name", "hosted")
        shutil.copytree(folder / "prefix" / "share" / "jupyter" / "kernels", kernels / "kernels")

        work = folder / "content"  # where Colab opens a notebook: nothing of the repository lies beside it
        work.mkdir()
        for number in LESSONS:
            [path] = (clone / "notebooks").glob(f"{number}_*.ipynb")
            notebook = nbformat.read(path, as_version=4)
            [set_up] = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
            raw = address.replace("https://github.com", "https://raw.githubusercontent.com")
            for part in (f"git+{address}@{tag}", f"{raw}/{tag}/constraints.txt"):
                assert part in set_up.source, f"{path.name}: the set-up cell does not hold {part}"
            set_up.source = set_up.source.replace(f"git+{address}@", f"git+file://localhost{clone.as_posix()}@")
            set_up.source = set_up.source.replace(f"{raw}/{tag}/constraints.txt", f"{clone}/constraints.txt")
            client = NotebookClient(notebook, timeout=600, kernel_name="hosted", resources={"metadata": {"path": str(work)}})
            try:
                client.execute()
            finally:  # what pip said in it stops nothing by itself
                print("".join(output.get("text", "") for output in set_up.outputs), flush=True)
            count = sum(cell.cell_type == "code" for cell in notebook.cells)
            print(f"{path.name}: {count} cells", flush=True)
        torch_after = run(python, "-c", "import torch, numpy; print(torch.__version__, numpy.__version__)")
        where = run(python, "-c", "import minidetr; print(minidetr.__file__)", cwd=work)
        assert torch_after == torch_there, f"torch and numpy were {torch_there.strip()} and are {torch_after.strip()}"
        assert str(folder / "env") in where, where
        print("there after: the same; minidetr came from the set-up cell")


if __name__ == "__main__":
    main()
