"""The tests on every Python that the package promises and this machine has, and once with the oldest torch: `make matrix`.

Pythons are those of pyenv and of PATH. Each row has an environment of its own in .matrix/, made when pyproject.toml is newer.
Rows may be chosen by name: `python .ci/matrix.py 3.12 3.10-torch2.8`. Ends with a table, and with 1 where a row fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ("torch==2.8.0", "torchvision==0.23.0")  # a pair, as torchvision is built for one torch


def pythons() -> dict[str, str]:
    """Version ("3.12") -> command of every Python at or above the promised one, the oldest first."""
    promised = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert promised is not None
    candidates = [shutil.which(f"python3.{minor}") for minor in range(int(promised[1]), 30)] + [shutil.which("python3")]
    if shutil.which("pyenv"):
        roots = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip()
        candidates += sorted(str(path) for path in Path(roots, "versions").glob("3.*/bin/python"))
    found: dict[int, str] = {}
    for command in filter(None, candidates):
        asked = subprocess.run([command, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
        if asked.returncode == 0 and int(asked.stdout) >= int(promised[1]):  # a shim of pyenv may have no version behind it
            found[int(asked.stdout)] = command
    return {f"3.{minor}": command for minor, command in sorted(found.items())}


def environment(name: str, command: str, pins: tuple[str, ...]) -> Path:
    """The Python of the row's environment, made or renewed where needed."""
    folder = ROOT / ".matrix" / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.is_file() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        if not python.is_file():
            subprocess.run([command, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", ".[test,notebooks]", *pins], cwd=ROOT, check=True)
        stamp.touch()
    return python


def tested(name: str, python: Path) -> tuple[bool, str]:
    """Run the tests; whether they passed, and pytest's last line."""
    workers = ["-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile"]
    command = [python, "-m", "pytest", "-q", *workers, "--ignore=tests/export"]  # those run by themselves, in `make test`
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(f"--- {name}\n{done.stdout}")
    return done.returncode == 0, done.stdout.strip().splitlines()[-1].strip("= ")


def main(chosen: list[str]) -> int:
    """Every row, or the chosen ones."""
    found = pythons()
    rows: dict[str, tuple[str, tuple[str, ...]]] = {version: (command, ()) for version, command in found.items()}
    oldest = next(iter(found))
    rows[f"{oldest}-torch2.8"] = (found[oldest], OLDEST)
    unknown = set(chosen) - rows.keys()
    if unknown:
        print(f"there is no row {', '.join(sorted(unknown))}: choose from {', '.join(rows)}")
        return 2
    table, every = [], True
    for name, (command, pins) in rows.items():
        if not chosen or name in chosen:
            python = environment(name, command, pins)
            code = "import torch, platform; print(f'Python {platform.python_version()}, torch {torch.__version__}')"
            versions = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            passed, line = tested(name, python)
            every &= passed
            table.append(f"{name:14} {versions:34} {line}")
            print(table[-1], flush=True)
    return 0 if every else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
