"""Time on a CUDA device: an event in the stream before and after each call, read when all of them have passed.

    host      launch 0, launch 1, launch 2, …  ── waits once
    stream    ●─ call 0 ─●●─ call 1 ─●●─ call 2 ─●            ●  torch.cuda.Event

Inputs and outputs stay on the device, so no copy is timed; where the host launches slower than the device computes,
the gaps are. A child does this last: PyTorch is imported for its events, and would count as the memory of a session.

Sources: torch.cuda.Event in PyTorch's reference; `user_compute_stream` on ONNX Runtime's page of its CUDA provider.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploycomp.measure.sampling import sample

if TYPE_CHECKING:
    import numpy as np

    Batch = Mapping[str, np.ndarray]

__all__ = ["Program", "bind", "device_times", "onnx_program", "time_on_device", "torch_program"]

NS_PER_MS = 1_000_000

UNSYNCHRONIZED = ("disable_synchronize_execution_providers", "1")
"""ONNX Runtime waits for the device at the end of every run otherwise, and the gap would be in the next call's time."""


class Program(NamedTuple):
    """A model on a device, whose inputs and outputs stay there."""

    place: Callable[[Batch], Any]
    """Numpy arrays by input name → what `launch` takes, copied to the device."""
    launch: Callable[[Any], object]
    """Puts one call into the current stream and does not wait for it."""


def device_times(
    opened: Callable[[Any], Program],
    pools: Sequence[Sequence[Batch]],
    seconds: float,
    *,
    whole: bool = False,
    torch: Any = None,
) -> list[dict[str, Any]]:
    """Time every cell on the device, or say why that cannot be done.

    Args:
        opened: The torch module → the program.
        pools: Batches of each cell.
        seconds: How long to launch each cell.
        whole: Whether only whole pools are timed, because their batches are not of one size.
        torch: The torch module; default: the installed one, imported here.

    Returns:
        For each cell `device_ns`, nanoseconds of each call, and `device_note`; one of them is None.
    """
    try:
        torch = torch or importlib.import_module("torch")
        if not torch.cuda.is_available():
            note = f"torch {torch.__version__} sees no CUDA device, and the time on one is told by its events"
            return [_untold(note) for _ in pools]
        program = opened(torch)
        return [
            {
                "device_ns": time_on_device(
                    program, batches, seconds, cuda=torch.cuda, cycle=len(batches) if whole else 1
                ),
                "device_note": None,
            }
            for batches in pools
        ]
    except Exception as error:  # the wall times of this child were taken before, and stand
        return [_untold(f"{type(error).__name__}: {error}") for _ in pools]


def _untold(note: str) -> dict[str, Any]:
    return {"device_ns": None, "device_note": note}


def time_on_device(
    program: Program, batches: Sequence[Batch], seconds: float, *, cuda: Any, cycle: int = 1
) -> list[int]:
    """Launch batches in turn and return what each took on the device, in nanoseconds.

    Args:
        program: What is launched; every batch once before the first event.
        batches: Taken in turn.
        seconds: After this time no new cycle is launched.
        cuda: `torch.cuda`.
        cycle: As for `sample`.
    """
    placed = [program.place(batch) for batch in batches]
    for each in placed:
        program.launch(each)
    cuda.synchronize()
    events: list[tuple[Any, Any]] = []

    def call(index: int) -> None:
        before, after = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        before.record()
        program.launch(placed[index % len(placed)])
        after.record()
        events.append((before, after))

    sample(call, seconds, cycle=cycle)  # for its rule of when to stop; its wall times are those of the launches
    cuda.synchronize()
    return [round(before.elapsed_time(after) * NS_PER_MS) for before, after in events]


def onnx_program(request: Mapping[str, Any], torch: Any) -> Program:
    """Open the graph of a request on PyTorch's current stream.

    Args:
        request: What the child was asked, see `worker.py`.
        torch: The torch module.

    Raises:
        EnvironmentFailed: CUDA does not start.
    """
    import onnxruntime as ort

    from deploycomp.measure.engines import NAMES
    from deploycomp.runtime.session import open_session

    providers = NAMES["cuda"]
    session = open_session(
        Path(request["model"]), threads=request["threads"], providers=providers, config=request["session"]
    )
    # PyTorch's default stream is 0, which ONNX Runtime reads as none given (microsoft/onnxruntime#19229).
    torch.cuda.set_stream(torch.cuda.Stream())
    index = torch.cuda.current_device()
    stream = torch.cuda.current_stream().cuda_stream
    session.set_providers(providers, [{"device_id": str(index), "user_compute_stream": str(stream)}, {}])
    options = ort.RunOptions()
    options.add_run_config_entry(*UNSYNCHRONIZED)
    return bind(session, torch=torch, device=("cuda", index), options=options)


def bind(session: Any, *, torch: Any, device: tuple[str, int], options: Any = None) -> Program:
    """Return a session as a program: inputs and outputs bound to memory of the device.

    Args:
        session: An `onnxruntime.InferenceSession`.
        torch: The torch module; its tensors hold the inputs.
        device: Kind and index, as `("cuda", 0)`.
        options: `onnxruntime.RunOptions` of each run.
    """
    inputs, outputs = ([each.name for each in found] for found in (session.get_inputs(), session.get_outputs()))

    def place(batch: Batch) -> tuple[Any, list[Any]]:
        binding, held = session.io_binding(), []
        for name in inputs:
            tensor = torch.from_numpy(batch[name]).to(device[0])
            binding.bind_input(name, *device, batch[name].dtype, tuple(tensor.shape), tensor.data_ptr())
            held.append(tensor)
        for name in outputs:
            binding.bind_output(name, *device)
        return binding, held  # a binding knows addresses only: the tensors must live as long as it does

    return Program(place, lambda placed: session.run_with_iobinding(placed[0], options))


def torch_program(forward: Callable[..., object], inputs: Sequence[str], torch: Any) -> Program:
    """Return a PyTorch model on CUDA as a program.

    Args:
        forward: Called with tensors in the order of *inputs*.
        inputs: Their names.
        torch: The torch module.
    """

    def place(batch: Batch) -> list[Any]:
        return [torch.from_numpy(batch[name]).to("cuda") for name in inputs]

    def launch(placed: Sequence[Any]) -> object:
        with torch.inference_mode():
            return forward(*placed)

    return Program(place, launch)
