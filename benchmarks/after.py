"""What the ideas from after DETR bring, each alone and together, in the same minutes on the same scenes.

    python -m benchmarks.after                            # every row with seeds 0, 1, 2: six minutes each, on two cores
    python -m benchmarks.after --rows plain dot-pixels --seeds 3
    python -m benchmarks.after --passes 2                 # 1,000 iterations each instead, however long they take
    python -m benchmarks.after --table                    # nothing is run: the table and the figure of what was measured

Rows run in turns, seed after seed, so that a machine that slows down slows all of them; passes over the 8,000 scenes do not depend
on the machine, but some rows' iterations take longer. Everything measured is kept in
benchmarks/after.json; from it come the table in benchmarks/RESULTS.md and the curves in benchmarks/after.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from statistics import mean

from benchmarks.floor import machine
from benchmarks.results import RESULTS, write_section
from minidetr.panoptic import whole_file
from minidetr.plot import new_figure

HERE = Path(__file__).parent
MEASURED, PICTURE = HERE / "after.json", HERE / "after.png"
START, END = "<!-- after: made by `python -m benchmarks.after` -->", "<!-- end of after -->"

COMMON = "--size 128 --validation-images 100 --evaluate-every 0.5 --workers 0 --batch-size 16 --learning-rate 7e-4"
COMMON += " --backbone-learning-rate 7e-4 --quiet"
DOT = "--preset tiny-after --mask-cost 0 --discrimination 0"
ROWS = {  # name -> (what it is, its options)
    "plain": ("`tiny`, heatmaps and mask head", "--preset tiny --masks-per-image 3"),
    "groups": ("the same, with three groups of queries", "--preset tiny --masks-per-image 3 --groups 3"),
    "denoise": ("the same, with three groups of noised truth", "--preset tiny --masks-per-image 3 --denoise 3"),
    "helper": (
        "the same, with what dot-pixels has in training alone",
        "--preset tiny --masks-per-image 3 --auxiliary-masks --mask-cost 1 --discrimination 1",
    ),
    "starts": ("the same, with queries that start from cells", "--preset tiny --masks-per-image 3 --starts"),
    "dot": ("dot-product masks of the last layer", f"{DOT} --no-auxiliary-masks"),
    "dot-layers": ("dot-product masks of every layer, in the matching too", "--preset tiny-after --discrimination 0"),
    "dot-pixels": ("`tiny-after`: the same, and a loss that tells the segments' pixels apart", "--preset tiny-after"),
    "dot-attention": ("dot-pixels and masked attention", "--preset tiny-after --masked-attention"),
    "dot-groups": ("dot-pixels and three groups of queries", "--preset tiny-after --groups 3"),
    "dot-denoise": ("dot-pixels and three groups of noised truth", "--preset tiny-after --denoise 3"),
    "dot-starts": ("dot-pixels and queries that start from cells", "--preset tiny-after --starts"),
}


def measure(row: str, seed: int, how_long: dict, folder: Path, processes: int) -> dict:
    """Train a row with a seed for {"minutes": m} or {"passes": p}; its scores on the way, the last ones at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command = [*(launch if processes > 1 else [sys.executable]), "-m", "minidetr", "train"]
    command += [part for option, value in how_long.items() for part in (f"--{option.replace('passes', 'epochs')}", str(value))]
    command += [*COMMON.split(), *ROWS[row][1].split(), "--seed", str(seed), "--output", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    with (folder / "scores.csv").open(newline="") as file:
        scores = [{k: float(v) for k, v in entry.items() if k != "measured on"} for entry in csv.DictReader(file)]
    shutil.rmtree(folder)
    about = {"row": row, "seed": seed, **how_long, "processes": processes}
    return about | {"date": date.today().isoformat(), "machine": machine(), "scores": scores}


def tables(measured: list[dict]) -> str:
    """What was measured as Markdown, a section for each length and number of processes, then the picture."""
    lengths = sorted({length(one) for one in measured})
    parts = [section([one for one in measured if length(one) == of_length], *of_length) for of_length in lengths]
    return "\n\n".join([*parts, f"![PQ over the minutes]({PICTURE.name})"])


def length(one: dict) -> tuple[str, float, int]:
    """How long a run was on how many processes: what two runs that are compared have in common."""
    unit = "minutes" if "minutes" in one else "passes"
    return unit, one[unit], one["processes"]


def what(one: dict) -> tuple:
    """What a run measured: a second one of it takes its place."""
    return one["row"], one["seed"], *length(one)


def section(measured: list[dict], unit: str, number: float, processes: int) -> str:
    """Runs of one length as a table: of each row the mean over its seeds, with the lowest and the highest."""
    of_rows: dict[str, list[dict]] = defaultdict(list)
    for one in measured:
        of_rows[one["row"]].append(one)
    days = sorted({one["date"] for one in measured})
    on = f"{'; '.join(sorted({one['machine'] for one in measured}))}; {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    of_one_thread = f"{processes} process{'es' * (processes != 1)} of one thread"
    lines = [
        f"## After DETR: from nothing in {number:g} {unit}{' over 8,000 scenes' * (unit == 'passes')}",
        "",
        f"`python -m benchmarks.after`: {on}; {of_one_thread}, 128 pixels, 100 validation scenes.",
        "PQ is the mean over the seeds (lowest to highest); differences under 2 are noise.",
        "",
        "| | | seeds | PQ | things | stuff | box AP | iterations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in ROWS if row in of_rows):
        last = [one["scores"][-1] for one in of_rows[row]]
        pq = [scores["PQ"] for scores in last]
        spread = f"{mean(pq):.1f} ({min(pq):.1f} to {max(pq):.1f})" if len(pq) > 1 else f"{pq[0]:.1f}"
        means = [f"{mean(scores[name] for scores in last):.1f}" for name in ("PQ things", "PQ stuff", "box AP")]
        iterations = f"{mean(scores['iteration'] for scores in last):,.0f}"
        lines.append(f"| {row} | {ROWS[row][0]} | {len(pq)} | {spread} | {' | '.join(means)} | {iterations} |")
    return "\n".join(lines)


def draw(measured: list[dict]) -> None:
    """PQ over the minutes, the mean of each row's seeds, into benchmarks/after.png: of the length that most runs have."""
    usual = Counter(map(length, measured)).most_common(1)[0][0]
    unit = usual[0]
    measured = [one for one in measured if length(one) == usual]
    figure = new_figure(8.3, 4.2)
    axes = figure.subplots()
    for row in ROWS:
        runs = [one for one in measured if one["row"] == row]
        if not runs:
            continue
        curves = [
            [(0.0, 0.0)] + [(one[unit] * s["iteration"] / one["scores"][-1]["iteration"], s["PQ"]) for s in one["scores"]]
            for one in runs
        ]
        count = min(len(curve) for curve in curves)
        points = [tuple(mean(curve[i if i < count - 1 else -1][axis] for curve in curves) for axis in (0, 1)) for i in range(count)]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=row)
    axes.set(xlabel=unit, ylabel="PQ on 100 validation scenes", ylim=(0, None), xlim=(0, None))
    axes.legend(fontsize="small", ncols=2)
    with whole_file(PICTURE) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--passes", type=int, help="over the 8,000 scenes, instead of minutes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/after"), help="where each run is made, and left no trace of")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    measured = json.loads(MEASURED.read_text()) if MEASURED.is_file() else []
    for seed in arguments.seeds if not arguments.table else []:
        for row in arguments.rows:
            how_long = {"passes": arguments.passes} if arguments.passes else {"minutes": arguments.minutes}
            one = measure(row, seed, how_long, arguments.output, arguments.processes)
            measured = [old for old in measured if what(old) != what(one)] + [one]
            MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
            print(f"{row}, seed {seed}: PQ {one['scores'][-1]['PQ']:.1f}", flush=True)
    write_section(RESULTS, START, END, tables(measured))
    draw(measured)


if __name__ == "__main__":
    main()
