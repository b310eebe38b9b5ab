"""Two processes on a CPU (gloo): the same gradients as one, and a whole run that ends, written by one of them.

The file is also a script that `accelerate launch` starts: see the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minidetr.after import build
from minidetr.data.targets import Target
from minidetr.evaluate.model import evaluate_model
from minidetr.model import PanopticDETR
from minidetr.presets import TRAINABLE
from minidetr.scenes.dataset import VALIDATION_SEED, SceneData
from minidetr.scenes.painters import CATEGORIES
from minidetr.training.checkpoint import NAME
from minidetr.training.devices import end_processes, start_devices
from minidetr.training.feed import EpochBatches, collate
from minidetr.training.objective import start_step
from minidetr.training.options import TrainOptions
from minidetr.training.report import SCORES, read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each start of two processes imports torch three times

SIZE = 64
ROOT = Path(__file__).parents[2]
EMPTIED = ((), (1,), (0, 2), (0, 1, 2))  # images whose segments are taken away: all of one process's, of all
AFTER = {"preset": "tiny-after", "groups": 2, "denoise": 2, "starts": True}  # all that adds queries or losses
CASES = [(step, emptied, "tiny") for step in ("joint", "boxes", "masks") for emptied in EMPTIED]
CASES += [("joint", emptied, "after") for emptied in EMPTIED] + [("masks", (1,), "after")]


def gradients(step: str, emptied: tuple[int, ...], what: str) -> dict[str, torch.Tensor]:
    """The gradients of one iteration on three scenes of 2 to 9 segments; with two processes, images 0 and 2 in one, 1 in the other.

    Normalisation is frozen, since that of a batch depends on how it is split; nothing is drawn.
    """
    given = {"preset": "tiny", "masks_per_image": 0} if what == "tiny" else AFTER
    options = TrainOptions(**given, size=SIZE, device="cpu", precision="float32").filled()
    accelerator = start_devices(options)
    torch.manual_seed(3)
    shape = replace(TRAINABLE[options.preset], norm="frozen", dropout=0.0, starts=bool(options.starts))
    objective = start_step(build(shape, CATEGORIES), options, step)
    if objective.denoising is not None:
        objective.denoising.box_noise = objective.denoising.class_noise = 0.0  # each process would draw its own
    wrapped = accelerator.prepare(objective)
    wrapped.train()
    data = SceneData(3, 40, SIZE)
    shares = EpochBatches(3, 3, 0, accelerator.process_index, accelerator.num_processes)
    order = [index for [batch] in [EpochBatches(3, 3, 0).of_epoch(0)] for index, _ in batch]
    [mine] = shares.of_epoch(0)
    batch, targets = collate([data[index] for index, _ in mine])
    for place, target in enumerate(targets):
        if order.index(target.image_id) in emptied:
            targets[place] = Target(target.labels[:0], target.boxes[:0], target.masks[:0], target.image_id, target.size)
    accelerator.backward(wrapped(batch, targets)["total"])
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.requires_grad and p.grad is not None}


def launch(*arguments: str | Path, limit: int = 400) -> subprocess.CompletedProcess:
    """`accelerate launch` with two processes, killed after `limit` seconds.

    `--multi_gpu` makes it start them on a CPU, too: with `--cpu`, or with neither, accelerate 1.15 starts a single one there.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the launcher and what it started, which has a session of its own
        pytest.fail(f"two processes hung: {process.communicate()[0][-3000:]}")
    return subprocess.CompletedProcess(command, process.returncode, output)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> dict:
    """The gradients of all cases, computed in one start of two processes."""
    path = tmp_path_factory.mktemp("processes") / "gradients.pt"
    done = launch(__file__, path)
    assert done.returncode == 0, done.stdout[-3000:]
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("step", "emptied", "what"), CASES)
def test_two_processes_have_the_gradients_of_one(of_two_processes, step, emptied, what):
    """Also when one has no segment at all, or fewer images than the other."""
    expected, found = gradients(step, emptied, what), of_two_processes[f"{step} {emptied} {what}"]
    assert expected.keys() == found.keys() and len(expected) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max())), rtol=0, msg=name)
    if not emptied:  # and they are not zeros (but in the first decoder layer, whose self-attention sees nothing but zeros)
        still = [name for name, gradient in found.items() if name.endswith("weight") and not gradient.any()]
        assert all(name.startswith(("model.decoder.layers.0.self_attention.", "model.decoder.layers.0.norm1.")) for name in still)


def test_a_run_of_two_processes(tmp_path, tmp_path_factory):
    """It ends; an uneven last batch (5 = 4 + 1 images, 1 less than processes) included; one process writes and counts all."""
    run = tmp_path / "run"
    cache = tmp_path_factory.getbasetemp() / "scenes"
    given = ["--preset", "tiny", "--scenes", "5", "--batch-size", "4", "--size", str(SIZE), "--validation-images", "3"]
    given += ["--steps", "boxes,masks", "--epochs", "1", "--mask-epochs", "1", "--evaluate-every", "1", "--workers", "0"]
    given += ["--device", "cpu", "--precision", "float32", "--cache", str(cache), "--output", str(run)]
    done = launch("-m", "minidetr", "train", *given)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count(f"done: {run}") == 1 and done.stdout.count("everything starts from random weights") == 1

    saved = torch.load(run / NAME, weights_only=True)
    assert saved["place"]["iteration"] == 4 and len(saved["random"]) == 2
    rows = read_rows(run / SCORES)
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert len(list((run / "tensorboard").iterdir())) == 1  # one process wrote
    assert done.stdout.count("iteration 4: PQ") == 1 and not list(run.glob("*.part"))
    validation = SceneData(3, VALIDATION_SEED, SIZE, cache=cache, workers=1)
    model = PanopticDETR.from_pretrained(run / "last.safetensors")
    alone = evaluate_model(model, validation, range(3))
    quality, average_precision = alone.panoptic_quality(validation), alone.box_average_precision(validation)["AP"]
    for name, value in (("PQ", quality.all.pq), ("SQ things", quality.things.sq), ("RQ stuff", quality.stuff.rq)):
        assert float(rows[-1][name]) == pytest.approx(100 * value, rel=1e-5), name
    assert float(rows[-1]["box AP"]) == pytest.approx(100 * average_precision, rel=1e-5)


def test_an_error_in_one_process_ends_both(tmp_path):
    """The main process finds no data: nobody waits for it."""
    done = launch("-m", "minidetr", "train", "--data", tmp_path / "nowhere", "--output", tmp_path / "run", "--device", "cpu")
    assert done.returncode != 0 and "neither 'scenes' nor a folder" in done.stdout


if __name__ == "__main__":  # one of the two processes: all cases, written by the main one
    all_cases = {f"{step} {emptied} {what}": gradients(step, emptied, what) for step, emptied, what in CASES}
    if int(os.environ["RANK"]) == 0:
        torch.save(all_cases, sys.argv[1])
    end_processes()
