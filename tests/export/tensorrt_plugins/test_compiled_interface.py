"""The kernel in the engine takes, in number, type and place, the arguments that TensorRT launches it with."""

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hieramp.export.kernels.ptx import entry, threads, version
from hieramp.export.tensorrt_plugins.names import SALIENCY_BIAS, SAMPLE_TOP_K_TOP_P

pytestmark = pytest.mark.slow
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
NATIVE = Path(__file__).with_name("native.py")
BINARIES = Path("backends/nvidia/bin")
# Plugin, type, compute capability, newest CUDA of the driver and the PTX it reads, sizes.
CASES = [
    (SALIENCY_BIAS, "fp16", "87", "12.6", 85, (256, 64)),
    (SALIENCY_BIAS, "fp32", "90", "12.8", 87, (1024, 128)),
    (SALIENCY_BIAS, "bf16", "110", "13.0", 90, (64, 32)),
    (SAMPLE_TOP_K_TOP_P, "fp16", "87", "12.6", 85, (4096,)),
    (SAMPLE_TOP_K_TOP_P, "fp32", "120", "12.9", 88, (16384,)),
]


def given(case: Any) -> dict[str, Any]:
    """What TensorRT gets from the plugin, compiled in a process where Triton compiles."""
    plugin, float_type, capability, cuda, _, sizes = case
    result = subprocess.run([sys.executable, str(NATIVE), plugin, float_type, capability, cuda, *map(str, sizes)],
                            env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].split('::')[1]}-{case[1]}-sm{case[2]}")
def case(request: pytest.FixtureRequest, native: ModuleType) -> tuple[Any, dict[str, Any]]:
    return request.param, given(request.param)


def passed(native: ModuleType, plugin: str, compiled: dict[str, Any]) -> list[Any]:
    """C types of what TensorRT passes: addresses of inputs, 32-bit extra arguments, addresses of outputs."""
    return ([ctypes.c_void_p] * len(native.INPUTS[plugin]) + [ctypes.c_int32] * compiled["extra"]
            + [ctypes.c_void_p] * compiled["outputs"])


def test_the_entry_takes_what_is_passed(native: ModuleType, case: tuple[Any, dict[str, Any]]) -> None:
    (plugin, *_), compiled = case
    kernel = entry(compiled["ptx"])
    assert kernel.name == compiled["kernel"]
    kinds = {ctypes.c_void_p: "u64", ctypes.c_int32: "u32"}
    assert kernel.kinds == tuple(kinds[c_type] for c_type in passed(native, plugin, compiled))


def test_the_launch_has_the_threads_it_was_compiled_for(case: tuple[Any, dict[str, Any]]) -> None:
    compiled = case[1]
    assert threads(compiled["ptx"]) == compiled["launch"]["block_x"]
    assert 0 < compiled["launch"]["shared_mem"] <= 48 * 1024  # what a launch may ask for without further ado


def test_the_driver_reads_the_text(case: tuple[Any, dict[str, Any]]) -> None:
    (_, _, capability, _, newest, _), compiled = case
    assert version(compiled["ptx"]) <= newest
    assert re.search(rf"^\.target sm_{capability}a?$", compiled["ptx"], re.MULTILINE)


def test_no_product_and_sum_may_be_fused(case: tuple[Any, dict[str, Any]]) -> None:
    """Logits are rounded as in the body: without an explicit rounding the driver's compiler might fuse."""
    found = set(re.findall(r"\b(?:add|sub|mul|fma|mad)\.[\w.]*f(?:16|32)\w*", case[1]["ptx"]))
    assert found and all(".rn." in operation for operation in found)
    assert not any(operation.startswith(("fma", "mad")) for operation in found)


def assembled(ptx: str, capability: str, folder: Path) -> bytes:
    spec = find_spec("triton")
    assert spec is not None and spec.origin is not None
    assembler = Path(spec.origin).parent / BINARIES / ("ptxas-blackwell" if int(capability) >= 100 else "ptxas")
    if not assembler.exists():
        pytest.skip(f"needs {assembler.name}, which this Triton does not bring")
    target = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    assert target is not None
    (folder / "kernel.ptx").write_text(ptx)
    subprocess.run([assembler, f"--gpu-name={target[1]}", "-o", folder / "kernel.cubin", folder / "kernel.ptx"],
                   check=True, capture_output=True)
    return (folder / "kernel.cubin").read_bytes()


def sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the sections of a 64-bit ELF file (System V ABI, chapter 4)."""
    start, = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    for name, _, _, _, offset, length in headers:
        at = headers[names][4] + name
        yield elf[at:elf.index(b"\0", at)].decode(), elf[offset:offset + length]


def parameter_places(cubin: bytes, kernel: str) -> list[tuple[int, int]]:
    """Offset and size of each parameter, in order, from the attributes that the driver reads (KPARAM_INFO, 0x17)."""
    info, at, found = dict(sections(cubin))[f".nv.info.{kernel}"], 0, {}
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        if (form, attribute) == (4, 0x17):
            _, ordinal, offset, packed = struct.unpack_from("<IHHI", info, at + 4)
            found[ordinal] = offset, packed >> 18
        at += 4 + (value if form == 4 else 0)
    return [found[ordinal] for ordinal in sorted(found)]


def test_the_machine_code_takes_what_is_passed(
    native: ModuleType, case: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    """The driver copies as many arguments as the machine code lists, so none may be left that nobody passes."""
    (plugin, _, capability, *_), compiled = case
    c_types = passed(native, plugin, compiled)
    arguments = type("Arguments", (ctypes.Structure,), {"_fields_": [(f"a{i}", t) for i, t in enumerate(c_types)]})
    expected = [(getattr(arguments, f"a{i}").offset, ctypes.sizeof(t)) for i, t in enumerate(c_types)]
    cubin = assembled(compiled["ptx"], capability, tmp_path)
    assert parameter_places(cubin, compiled["kernel"]) == expected
