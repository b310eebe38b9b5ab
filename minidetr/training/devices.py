"""What a run runs on: devices, precision and processes through accelerate, and how it is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch.nn.attention import SDPBackend, sdpa_kernel

from minidetr.errors import InputError
from minidetr.training.options import TrainOptions

PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # accelerate's names -> torch's, and ours


def start_devices(options: TrainOptions) -> Accelerator:
    """accelerate's handle on devices, processes and precision. Raises InputError for a device or precision that isn't there."""
    AcceleratorState._reset_state()  # a notebook may train twice, in two precisions
    if options.device not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(f"--device must be auto, cpu, cuda or mps, not {options.device}")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (options.device == "cuda" and not cuda) or (options.device == "mps" and not mps):
        raise InputError(f"--device {options.device}: no such GPU can be used on this machine; choose auto or cpu")
    on_cpu = options.device == "cpu" or not (cuda or mps)
    if options.precision == "float16" and on_cpu:
        raise InputError("--precision float16 needs a GPU: choose auto, float32 or bfloat16")
    names = {ours: theirs for theirs, ours in PRECISIONS.items()} | {"auto": best_precision(on_cpu)}
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=on_cpu, mixed_precision=names[options.precision], kwargs_handlers=[unused])


def end_processes() -> None:
    """Part from the other processes, at the end of a program: one that ends while threads still listen for the others may abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def best_precision(on_cpu: bool) -> str:
    """bfloat16 where the hardware has it, float16 on older GPUs, else float32, by accelerate's name (see `PRECISIONS`)."""
    if on_cpu:  # on a CPU without instructions for it, bfloat16 is ten times slower
        return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "no"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no"


def training_attention(accelerator: Accelerator) -> AbstractContextManager:
    """How attention is computed where it has a gradient.

    PyTorch's fused attention of bfloat16 on a CPU without AMX takes up to four times as long to train as the plain one.
    """
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16" and not torch.cpu._is_amx_tile_supported()
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def agreed(accelerator: Accelerator, *values: float) -> list[float]:
    """The main process's values on every process, in one message, so that all stop, save and evaluate at the same iteration."""
    if accelerator.num_processes == 1:
        return list(values)
    return broadcast(torch.tensor(values, device=accelerator.device)).tolist()


@dataclass
class Stop:
    """Whether somebody asked the run to stop."""

    asked: bool = False


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the iteration at hand; a second Ctrl-C interrupts at once."""
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can send it a signal
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
