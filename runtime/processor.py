"""Which provider and arithmetic suit this processor, from what it can do and what is installed."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_MATRIX_BF16, _VECTOR_BF16 = "amx_bf16", "avx512_bf16"
COMPUTE_TYPES = ("f32", "bf16")


@dataclass(frozen=True)
class CpuChoice:
    """A provider of `--provider`, the arithmetic it is fastest with, and why."""

    provider: str
    fastest_compute: str
    reason: str


def cpu_features(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Features of the first processor as Linux names them; empty where the system does not say."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    fields = (line.partition(":") for line in lines)
    found = next((value for name, _, value in fields if name.strip() in ("flags", "Features")), "")
    return frozenset(found.split())


def multiplies_bf16(features: Collection[str]) -> bool:
    """Whether an x86 processor multiplies bfloat16 in hardware, by matrix tiles (AMX) or vectors."""
    return _MATRIX_BF16 in features or _VECTOR_BF16 in features


def best_cpu_provider(features: Collection[str], available: Collection[str], precision: str = "fp32") -> CpuChoice:
    """The provider for a plan of that precision on a processor with these features.

    `available` are short names of providers that are installed. The arithmetic is advice: bfloat16 moves draws, so a
    user has to ask for it. Raises nothing; where a bf16 plan cannot run, the choice is `cpu`, which says so itself.
    """
    compute = "bf16" if multiplies_bf16(features) and "openvino" in available else "f32"
    if "openvino" not in available:
        return CpuChoice("cpu", compute, "OpenVINO is not installed")
    if precision == "bf16":
        return CpuChoice("openvino", compute, "ONNX Runtime's own CPU provider has no bfloat16 products")
    if compute == "bf16":
        return CpuChoice("openvino", compute, "the processor multiplies bfloat16")
    return CpuChoice("cpu", compute, "the processor multiplies no bfloat16, and this provider starts soonest")
