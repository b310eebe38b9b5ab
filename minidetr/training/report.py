"""What a run leaves to look at: losses and scores as CSV and in TensorBoard, the curves, validation pictures."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetr.data.coco import PanopticDataset
from minidetr.model import PanopticDETR
from minidetr.panoptic import Panoptic, whole_file, write_png

LOSSES, SCORES = "losses.csv", "scores.csv"


class Report:
    """Writes into the run's folder. `iteration` counts from 1 over the whole run; rows past `start` (of a run that was cut off
    after its last checkpoint) are dropped, so that a resumed run reads like one that never stopped."""

    def __init__(self, run: Path, start: int, sums: Mapping[str, float] | None = None, count: int = 0):
        """`sums` and `count` are those of the losses since the last row, of a run that is gone on with."""
        self.run, self.count = run, count
        self.sums: dict[str, float] = defaultdict(float, sums or {})
        self.row: dict[str, float] = {}  # of the last iteration
        self.columns: dict[str, list[str]] = {}
        for name in (LOSSES, SCORES):
            rows = read_rows(run / name)
            if rows:
                write_rows(run / name, [row for row in rows if int(row["iteration"]) <= start])
        self.board = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(run / "tensorboard", purge_step=start + 1)
        except ImportError:  # TensorBoard is a convenience: the CSV holds the same
            pass

    def losses(self, losses: dict[str, float], row: dict[str, float], every: int = 20) -> None:
        """Add one iteration's losses; every so often write their mean. `row` has at least "iteration"."""
        for name, value in losses.items():
            self.sums[name] += value
        self.count, self.row = self.count + 1, row
        if row["iteration"] % every == 0:
            self.write_means()

    def write_means(self) -> None:
        """Write the losses' means since the last row."""
        self.add(LOSSES, self.row | {name: value / self.count for name, value in self.sums.items()})
        self.sums.clear()
        self.count = 0

    def add(self, name: str, row: dict) -> None:
        """Append a row to a CSV file, and to TensorBoard."""
        path = self.run / name
        text = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()}
        columns = self.columns.get(name, [])
        if set(text) <= set(columns):
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns, restval="").writerow(text)
        else:  # the first row since the start, or a column that wasn't there (another step began): write all anew
            self.columns[name] = write_rows(path, [*read_rows(path), text])
        if self.board is not None:
            for key, value in row.items():
                if isinstance(value, (int, float)) and key != "iteration":
                    self.board.add_scalar(f"{Path(name).stem}/{key}", value, row["iteration"])

    def curves(self) -> None:
        """Draw losses and scores over the iterations into curves.png."""
        from minidetr.plot import new_figure, use_style

        use_style()
        losses, scores = read_rows(self.run / LOSSES), read_rows(self.run / SCORES)
        figure = new_figure(9, 3.4)
        left, right = figure.subplots(1, 2)
        for name in ("class", "l1", "giou", "focal", "dice"):
            points = [(int(r["iteration"]), float(r[name])) for r in losses if r.get(name)]
            if points:
                xs, ys = np.array(points).T
                window = max(1, len(ys) // 50)
                smooth = np.convolve(ys, np.ones(window) / window, mode="valid")
                left.plot(xs[len(xs) - len(smooth) :], smooth / smooth.max(), label=f"{name} (1 = {smooth.max():.3g})")
        left.set(title="Losses, each over its highest", xlabel="iteration", ylim=(0, 1.05))
        for name in ("PQ", "PQ things", "PQ stuff", "box AP"):
            points = [(int(r["iteration"]), float(r[name])) for r in scores if r.get(name) and r[name] != "nan"]
            if points:
                right.plot(*np.array(points).T, marker="o", markersize=3, label=name)
        right.set(title="Validation, percent", xlabel="iteration", ylim=(0, 100))
        last = max((int(r["iteration"]) for r in losses + scores), default=1)
        for axes in (left, right):  # the same iterations in both, however rarely the model was judged
            axes.set_xlim(0, 1.03 * last)
            if axes.lines:
                axes.legend(fontsize="small")
        with whole_file(self.run / "curves.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")

    def pictures(self, model: PanopticDETR, data: PanopticDataset, name: str, count: int = 4) -> None:
        """A few validation images with truth and prediction side by side, into validation/NAME.png."""
        from minidetr.plot import for_display, grid, overlay

        cells = []
        for index in range(min(count, len(data))):
            picture, segment_ids, segments_info = data.read(index)
            predicted = model.segment([picture])[0]
            for panoptic in (Panoptic.of_entries(segment_ids, segments_info, data.categories), predicted):
                cells.append(overlay(*for_display(np.asarray(picture), panoptic), data.categories))
        write_png(self.run / "validation" / f"{name}.png", grid(cells, 2, ["truth", "prediction"]))

    def close(self, done: bool = False) -> None:
        """Write what is held back: of a run that is `done`, the losses of its last iterations, too."""
        if done and self.count and self.row:
            self.write_means()
        if self.board is not None:
            self.board.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none if there is no file; a row cut off by a full disk is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def write_rows(path: Path, rows: list[dict[str, str]]) -> list[str]:
    """Write a CSV file with the columns of all rows, whole or not at all; returns the columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return columns
