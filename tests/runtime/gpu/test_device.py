"""What is read from the driver's libraries, with stand-ins that answer as theirs do."""

from typing import Any

import pytest

from hieramp.runtime.gpu.device import Device, current_device, query_device


class Cuda:
    """A driver with one GPU; `broken` names the call that fails."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def cuInit(self, flags: int) -> int:
        return int(self.broken == "cuInit")

    def cuDeviceGet(self, out: Any, index: int) -> int:
        return int(self.broken == "cuDeviceGet")

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 13020
        return int(self.broken == "cuDriverGetVersion")

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: Any) -> int:
        out._obj.value = {75: 12, 76: 1}[attribute]
        return int(self.broken == "cuDeviceGetAttribute")


class Nvml:
    """A management library; each answer can be an error."""

    def __init__(self, start: int = 0, answer: int = 0) -> None:
        self.start, self.answer, self.open = start, answer, False

    def nvmlInit_v2(self) -> int:
        self.open = not self.start
        return self.start

    def nvmlSystemGetDriverVersion(self, text: Any, length: int) -> int:
        text.value = b"580.65.06"
        return self.answer

    def nvmlShutdown(self) -> int:
        self.open = False
        return 0


def test_a_gpu() -> None:
    nvml = Nvml()
    assert query_device(Cuda(), nvml) == Device("121", "13.2", "580.65.06")
    assert not nvml.open


@pytest.mark.parametrize("broken", ["cuInit", "cuDeviceGet", "cuDriverGetVersion", "cuDeviceGetAttribute"])
def test_no_gpu(broken: str) -> None:
    assert query_device(Cuda(broken), Nvml()) is None


@pytest.mark.parametrize("nvml", [None, Nvml(start=1), Nvml(answer=1)])
def test_no_driver_version(nvml: Nvml | None) -> None:
    device = query_device(Cuda(), nvml)
    assert device is not None
    assert device.driver is None
    assert nvml is None or not nvml.open


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hieramp.runtime.gpu.device.CUDA_LIBRARIES", ("no-such-library.so",))
    assert current_device() is None


@pytest.mark.gpu
def test_the_gpu_of_this_machine() -> None:
    device = current_device()
    assert device is not None
    assert int(device.compute_capability) >= 50
