"""What every recorded run says beside its figures: command, environment, versions and commit, one JSON row a run."""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hieramp.runtime.cores import usable_cores
from hieramp.runtime.versions import version_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_CPU_INFO = Path("/proc/cpuinfo")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "sve",
             "bf16", "i8mm")
_PACKAGES = ("hieramp", "numpy", "onnxruntime", "onnx", "torch", "ray")


def row(benchmark: str, figures: dict[str, object]) -> dict[str, object]:
    """A run's figures with all that is needed to judge and repeat them."""
    return {
        "benchmark": benchmark,
        "command": command_line(benchmark, sys.argv[1:]),
        "environment": environment(),
        "versions": {package: version_of(package) for package in _PACKAGES},
        "commit": commit(ROOT),
        "figures": figures,
    }


def append_row(folder: Path, record: dict[str, object]) -> Path:
    """Add a row to the file of its benchmark in `folder`."""
    path = folder / f"{record['benchmark']}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    return path


def command_line(benchmark: str, arguments: Sequence[str]) -> str:
    """The command that repeats a run, its absolute paths relative to the repository or cut to their last part."""
    return shlex.join(["python", f"benchmarks/{benchmark}.py", *map(_portable, arguments)])


def _portable(argument: str) -> str:
    option, separator, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(value)
    if not path.is_absolute():
        return argument
    return option + separator + (str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name)


def environment() -> dict[str, object]:
    """Processor, cores this process may use, memory and interpreter."""
    described = cpu_description(_CPU_INFO.read_text() if _CPU_INFO.exists() else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return described | {"cores": usable_cores(), "memory_gb": round(memory / 1e9, 1), "system": platform.system(),
                        "machine": platform.machine(), "python": platform.python_version()}


def cpu_description(cpu_info: str) -> dict[str, object]:
    """Model and those features of a processor that decide about speed, from the text of /proc/cpuinfo."""
    fields = [line.split(":", 1) for line in cpu_info.splitlines() if ":" in line]
    first = {name.strip(): value.strip() for name, value in reversed(fields)}
    present = set((first.get("flags") or first.get("Features") or "").split())
    return {"cpu": first.get("model name", "unknown"), "features": [name for name in _FEATURES if name in present]}


def commit(root: Path) -> str:
    """The commit of the working tree, with `-dirty` after it where tracked files differ."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show_spread(values: dict[str, float], digits: int = 1) -> str:
    """A spread as `median (min–max)`."""
    return "{median:.{d}f} ({min:.{d}f}–{max:.{d}f})".format(**values, d=digits)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
