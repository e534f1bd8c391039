"""What this processor can do, and the arithmetics of --compute."""

from collections.abc import Collection
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_MATRIX_BF16, _VECTOR_BF16 = "amx_bf16", "avx512_bf16"
COMPUTE_TYPES = ("f32", "bf16")


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
