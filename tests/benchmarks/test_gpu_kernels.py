"""The kernels' benchmark: a reason without a GPU, bytes by hand, and agreement, which the interpreter can check."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

Script = Callable[[str], ModuleType]
PROGRAM = """if True:
    import json, sys
    sys.path.insert(0, "benchmarks")
    from gpu_kernels import Case, agreement, pair
    cases = [Case("SaliencyBias", 1, 9, heads=2, head_width=16), Case("SampleTopKTopP", 2, 9, vocab=64)]
    print(json.dumps([agreement(case, pair(case, "cpu")) for case in cases]))
"""


def test_without_a_gpu_the_row_has_the_reason(script: Script, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = CliRunner().invoke(script("gpu_kernels").main, ["--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (case,) = json.loads((tmp_path / "gpu_kernels.jsonl").read_text())["figures"]["cases"]
    assert "no CUDA GPU" in case["skipped"] or "Triton is not installed" in case["skipped"]
    assert case["skipped"] in result.output


def test_bytes_that_must_be_moved(script: Script) -> None:
    case = script("gpu_kernels").Case
    # Two rows: fp16 keys 16·256·64 and query 16·64, and two float32 outputs of 256.
    assert case("SaliencyBias", 1, 256, heads=16, head_width=64).bytes_moved == 2 * (2 * (262144 + 1024) + 2048)
    # 8·256 places: two rows of 4,096 float32, a uniform, and an int64 token.
    assert case("SampleTopKTopP", 8, 256, vocab=4096).bytes_moved == 2048 * (32768 + 12)


@pytest.mark.slow
def test_kernels_and_reference_agree(repo_root: Path) -> None:
    if find_spec("triton") is None:
        pytest.skip("needs Triton: pip install '.[kernels]'")
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repo_root, capture_output=True, text=True,
                            env=os.environ | {"TRITON_INTERPRET": "1"})
    assert result.returncode == 0, result.stderr
    bias, sampler = json.loads(result.stdout)
    assert bias["agrees"] and bias["equal_share"] == 1.0 and bias["saliency_max_abs"] < 2e-5
    assert sampler["agrees"] and sampler["equal_share"] == 1.0


def test_what_is_said(script: Script) -> None:
    times = {"median": 0.5, "min": 0.4, "max": 0.7}
    timed = {"kernel": "SaliencyBias", "batch": 1, "tokens": 9, "kernel_ms": times, "reference_ms": times,
             "roofline": 0.25}
    differing = {"kernel": "SampleTopKTopP", "batch": 1, "tokens": 9, "agrees": False}
    assert list(script("gpu_kernels").table([timed, differing])) == [
        "SaliencyBias batch 1 tokens 9: 0.500 (0.400–0.700) ms, reference 0.500 (0.400–0.700) ms, 25% of the copy "
        "bandwidth",
        "SampleTopKTopP batch 1 tokens 9: results differ, not timed"]
