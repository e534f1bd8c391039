"""Which GPUs, and one line for what cannot be."""

from types import SimpleNamespace

import pytest

from hieramp.export.tensorrt_build.errors import BuildError
from hieramp.export.tensorrt_build.targets import choose_targets, parse_capabilities
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.tensorrt.library import Library

RTX = Library("tensorrt_rtx", SimpleNamespace(
    __version__="1.7", ComputeCapability=SimpleNamespace(CURRENT=0, SM86=86, SM89=89, SM120=120)))
FULL = Library("tensorrt", SimpleNamespace(__version__="11.4"))
ORIN = Device("87", "13.0", None)
ADA = Device("89", "13.0", "580.1")


@pytest.mark.parametrize(("text", "expected"), [
    ("89", ("89",)), ("120, 8.6,89", ("86", "89", "120")), ("12.0,120", ("120",)),
])
def test_capabilities(text: str, expected: tuple[str, ...]) -> None:
    assert parse_capabilities(text) == expected


@pytest.mark.parametrize("text", ["", "89,", "sm89", "8.9.1", "9"])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(BuildError, match=r"must be a number such as 89 or 8\.9"):
        parse_capabilities(text)


@pytest.mark.parametrize(("library", "wanted", "device", "expected"), [
    (RTX, ("86", "120"), None, ("86", "120")),
    (RTX, ("86",), ADA, ("86",)),
    (RTX, (), ADA, ("89",)),
    (RTX, (), None, ("86", "89", "120")),
    (FULL, (), ORIN, ("87",)),
    (FULL, ("87",), ORIN, ("87",)),
])
def test_targets(library: Library, wanted: tuple[str, ...], device: Device | None, expected: tuple[str, ...]) -> None:
    assert choose_targets(library, wanted, device) == expected


@pytest.mark.parametrize(("library", "wanted", "device", "complaint"), [
    (RTX, ("87",), None, "tensorrt_rtx 1.7 builds for compute capability 86, 89, 120, not for 87"),
    (RTX, (), ORIN, "not for 87"),
    (FULL, ("89",), ORIN, "of compute capability 87, not for 89"),
    (FULL, (), None, "there is none: build on the device"),
])
def test_targets_that_cannot_be(
    library: Library, wanted: tuple[str, ...], device: Device | None, complaint: str
) -> None:
    with pytest.raises(BuildError, match=complaint):
        choose_targets(library, wanted, device)
