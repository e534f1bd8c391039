"""The seam to CUDA: what it frees, what it says, and the real module where it is installed."""

import ctypes
import subprocess
import sys
from contextlib import ExitStack

import pytest

from hieramp.runtime.gpu.cuda import Cuda
from hieramp.runtime.gpu.device import current_device
from hieramp.runtime.gpu.errors import DeviceError, LibraryError

from .stand_in_cuda import StandInCuda


def test_everything_is_freed() -> None:
    runtime = StandInCuda()
    with ExitStack() as owner:
        cuda = Cuda(runtime)
        stream = owner.enter_context(cuda.stream())
        device, host = owner.enter_context(cuda.device_memory(300)), owner.enter_context(cuda.pinned_memory(300))
        assert device % 256 == host % 256 == 0
        cuda.copy_to_device(device, host, 300, stream)
        graph = cuda.capture(stream, lambda: cuda.copy_to_host(host, device, 300, stream))
        cuda.launch(graph, stream)
        cuda.wait(stream)
        cuda.free_graph(graph)
        assert len(runtime.leaks) == 3
    assert runtime.leaks == runtime.violations == []


def test_capturing_runs_nothing() -> None:
    runtime = StandInCuda()
    with Cuda(runtime).stream() as stream:
        graph = Cuda(runtime).capture(stream, lambda: runtime.push(int(stream), lambda: None) and None)
        Cuda(runtime).wait(stream)
        assert runtime.ran == 0
        for _ in range(2):
            Cuda(runtime).launch(graph, stream)
        Cuda(runtime).wait(stream)
        assert runtime.ran == 2
        Cuda(runtime).free_graph(graph)


def test_a_capture_that_fails_is_ended_and_leaves_no_graph() -> None:
    runtime = StandInCuda()

    def fail() -> None:
        raise ValueError("in the middle")

    with Cuda(runtime).stream() as stream:
        with pytest.raises(ValueError, match="in the middle"):
            Cuda(runtime).capture(stream, fail)
        assert not runtime.is_capturing(int(stream))
        with pytest.raises(DeviceError, match="cudaStreamSynchronize failed: cudaErrorStreamCaptureUnsupported"):
            Cuda(runtime).capture(stream, lambda: Cuda(runtime).wait(stream))
    assert runtime.leaks == []


def test_a_failure_names_call_reason_and_way_out() -> None:
    cuda = Cuda(StandInCuda(fail=("cudaMalloc",)))
    message = r"cudaMalloc failed: cudaErrorLaunchFailure \(as told\) for 300 bytes; a smaller --batch-size needs less"
    with pytest.raises(DeviceError, match=message), cuda.device_memory(300):
        pass


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LibraryError, match=r"cuda-python cannot be imported .* pip install cuda-python, of the major"):
        Cuda.load()


def test_the_real_module_without_a_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install '.[tensorrt]'")
    if current_device() is not None:
        pytest.skip("there is a GPU")
    cuda = Cuda.load()
    with pytest.raises(DeviceError, match=r"cudaSetDevice failed: cudaError(InsufficientDriver|NoDevice)"):
        cuda.select_first_gpu()
    with pytest.raises(DeviceError, match="cudaMalloc failed: "), cuda.device_memory(8):
        pass
    with pytest.raises(DeviceError, match="cudaStreamCreateWithFlags failed: "), cuda.stream():
        pass


@pytest.mark.gpu
def test_the_real_module_on_a_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: pip install '.[tensorrt]'")
    cuda = Cuda.load()
    cuda.select_first_gpu()
    with ExitStack() as owner:
        stream = owner.enter_context(cuda.stream())
        device, host = owner.enter_context(cuda.device_memory(512)), owner.enter_context(cuda.pinned_memory(512))
        ctypes.memset(host, 7, 512)
        cuda.copy_to_device(device, host, 512, stream)
        cuda.wait(stream)
        ctypes.memset(host, 0, 512)
        graph = cuda.capture(stream, lambda: cuda.copy_to_host(host, device, 512, stream))
        cuda.wait(stream)
        assert ctypes.string_at(host, 512) == bytes(512)
        cuda.launch(graph, stream)
        cuda.wait(stream)
        assert ctypes.string_at(host, 512) == bytes([7]) * 512
        cuda.free_graph(graph)


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = "import sys, hieramp.runtime.tensorrt.backend, hieramp.runtime.surroundings; print('cuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
