"""Stand-ins for sessions of ONNX Runtime's CUDA provider: a session of the processor runs on the bound addresses, when
the stand-in for CUDA comes to it in the stream.

It keeps to what ONNX Runtime does with graphs: at the first run of a number it captures, later runs replay what was
bound and what the inputs on the host held then.
"""

from ctypes import addressof, c_int64
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime

from hieramp.runtime.binding import Tensor, run_bound
from tests.runtime.tensorrt.stand_in_tensorrt import session_of

from .stand_in_cuda import StandInCuda


class StandInBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    def bind_input(self, name: str, device: str, number: int, type: int, shape: tuple[int, ...], address: int) -> None:
        self.inputs[name] = Tensor(device, type, shape, address, None)

    def bind_output(self, name: str, device: str, number: int, type: int, shape: tuple[int, ...],
                    address: int) -> None:
        assert device == "cuda"
        self.outputs[name] = Tensor(device, type, shape, address, None)


class StandInSession:
    """`runs` has the graph number of every run; `fail` makes the next run raise."""

    def __init__(self, cuda: StandInCuda, path: Path, stream: Any, captures: bool) -> None:
        self.cuda, self.stream, self.captures = cuda, stream, captures
        self.session = session_of(path)
        self.graphs: dict[str, Any] = {}
        self.runs: list[str | None] = []
        self.fail = False

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def get_outputs(self) -> Any:
        return self.session.get_outputs()

    def io_binding(self) -> StandInBinding:
        return StandInBinding()

    def run_with_iobinding(self, binding: StandInBinding, options: onnxruntime.RunOptions) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self.fail:
            raise RuntimeError("CUDA failure 2: out of memory")
        number = options.get_run_config_entry("gpu_graph_id") if self.captures else None
        self.runs.append(number)
        work = self._work(binding)
        if number not in (None, "-1"):
            work = self.graphs.setdefault(number, work)
        self.cuda.push(int(self.stream), work)

    def _work(self, binding: StandInBinding) -> Any:
        """What the device does. Values on the host are read now, as shapes are; the rest when it runs."""
        kept = {name: _copied(tensor) for name, tensor in binding.inputs.items() if tensor.device == "cpu"}

        def run() -> None:
            for name, tensor in (*binding.inputs.items(), *binding.outputs.items()):
                if tensor.device == "cuda":
                    self.cuda.check(tensor.pointer, 1, "device", f"{name} in")
            inputs = {name: Tensor("cpu", tensor.element_type, tensor.shape,
                                   addressof(kept[name]) if name in kept else tensor.pointer, None)
                      for name, tensor in binding.inputs.items()}
            outputs = {name: Tensor("cpu", tensor.element_type, tensor.shape, tensor.pointer, None)
                       for name, tensor in binding.outputs.items()}
            run_bound(self.session, inputs, outputs)

        return run


def _copied(tensor: Tensor) -> Any:
    numbers = c_int64 * prod(tensor.shape)
    return numbers.from_buffer_copy(numbers.from_address(tensor.pointer))
