"""The kernels compile for five GPUs without one, and the figures of each are read from the assembler."""

import json
import subprocess
import sys
from typing import Any

import pytest

TARGETS = [87, 90, 100, 110, 120]
# Compiles in a process of its own: in this one the kernels may be loaded for the interpreter.
PROGRAM = """if True:
    import dataclasses, json
    from hieramp.export.kernels.ahead_of_time import (COMPUTE_CAPABILITIES, compile_kernel, saliency_bias_for,
                                                      sample_top_k_top_p_for)
    chosen = [(k, t, c) for k in (saliency_bias_for(1024, 64), sample_top_k_top_p_for(16384))
              for t in ("fp16", "bf16", "fp32") for c in COMPUTE_CAPABILITIES if t == "fp16" or c == 90]
    rows = [dataclasses.asdict(compile_kernel(*choice)) for choice in chosen]
    print(json.dumps([row | {"cubin": row["cubin"].hex()} for row in rows]))
"""


def run(environment: dict[str, str], *arguments: str) -> Any:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compiled(compiling_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environment = compiling_environment | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    result = run(environment, "-c", PROGRAM)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["SaliencyBias", "SampleTopKTopP"])
def test_a_kernel_compiles_for(target: int, name: str, compiled: list[dict[str, Any]]) -> None:
    rows = [r for r in compiled if (r["name"], r["compute_capability"], r["float_type"]) == (name, target, "fp16")]
    assert len(rows) == 1
    row, cubin = rows[0], bytes.fromhex(rows[0]["cubin"])
    assert cubin.startswith(b"\x7fELF") and f"sm_{target}".encode() in cubin
    assert 0 < row["registers"] * row["warps"] * 32 <= 65536
    assert row["shared"] <= 48 * 1024
    assert row["spill_stores"] == row["spill_loads"] == 0


@pytest.mark.parametrize("float_type", ["fp16", "bf16", "fp32"])
def test_a_kernel_compiles_for_every_type(float_type: str, compiled: list[dict[str, Any]]) -> None:
    rows = [r for r in compiled if (r["compute_capability"], r["float_type"]) == (90, float_type)]
    assert len(rows) == 2
    assert all(row["spill_stores"] == 0 for row in rows)


COMMAND = ("-m", "hieramp.export.kernels.ahead_of_time")


def test_the_command_prints_a_table(compiling_environment: dict[str, str]) -> None:
    lines = run(compiling_environment, *COMMAND, "--compute-capability", "87").stdout.splitlines()
    assert lines[0].startswith("| kernel |")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["SaliencyBias"] * 3 + ["SampleTopKTopP"] * 2
    assert all("| sm_87 |" in line for line in lines[2:])


@pytest.mark.parametrize(("changes", "arguments", "message"), [
    ({"TRITON_INTERPRET": "1"}, [], "unset TRITON_INTERPRET"),
    ({}, ["--compute-capability", "99"], "compute capability must be one of 75, 80, 86, 87, 89, 90, 100, 110, "),
])
def test_the_command_fails_on_one_line(
    compiling_environment: dict[str, str], changes: dict[str, str], arguments: list[str], message: str
) -> None:
    result = run(compiling_environment | changes, *COMMAND, *arguments)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and message in result.stderr
