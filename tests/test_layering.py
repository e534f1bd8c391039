"""Imports follow the arrows export → hieramp_ref and export → runtime, and the runtime stays light."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {"export": "hieramp.export", "runtime": "hieramp.runtime", "engines": "hieramp.engines"}
SOURCE_FOLDERS = ["hieramp_ref", "export", "runtime", "engines", "tests", "benchmarks"]
BANNED = {
    "hieramp_ref": ["hieramp"],
    "runtime": ["hieramp_ref", "hieramp.export"],
    "engines": ["hieramp_ref", "hieramp.export", "hieramp.runtime"],
}
# Third-party modules of the core dependencies and of the extras cpu, gpu, openvino, tensorrt, parquet and ray, as they
# are imported.
RUNTIME_MODULES = {"numpy", "click", "PIL", "safetensors", "platformdirs", "tqdm", "onnxruntime",
                   "onnxruntime_ep_openvino", "tensorrt", "tensorrt_rtx", "cuda", "pyarrow", "ray", "hieramp"}


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def resolve_relative(node: ast.ImportFrom, path: Path) -> str:
    """Absolute name of the package that `from ..x import y` in `path` (relative to the root) starts from."""
    parts = [*IMPORT_NAMES.get(path.parts[0], path.parts[0]).split("."), *path.parts[1:-1]]
    return ".".join([*parts[:len(parts) - node.level + 1], *([node.module] if node.module else [])])


def imported_modules(source: str, path: Path) -> Iterator[str]:
    """Every module that `source` names in an import, wherever it stands, or as a literal for importlib."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_relative(node, path) if node.level else node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def violations(source: str, path: Path) -> list[str]:
    """The imports of `source` that a file at `path` (relative to the root) may not have."""
    modules = set(imported_modules(source, path))
    banned = [*IMPORT_NAMES, *BANNED.get(path.parts[0], [])]
    found = {module for module in modules for name in banned if is_within(module, name)}
    if path.parts[0] == "runtime":
        allowed = RUNTIME_MODULES | set(sys.stdlib_module_names)
        found |= {module for module in modules if module.split(".")[0] not in allowed}
    return sorted(found)


def source_files() -> list[Path]:
    return [path.relative_to(ROOT) for folder in SOURCE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", source_files(), ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    assert violations((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(("path", "source", "expected"), [
    ("runtime/x.py", "import torch", ["torch"]),
    ("runtime/x.py", "def f():\n    from torch.nn import Module", ["torch.nn.Module"]),
    ("runtime/x.py", "import onnx, numpy", ["onnx"]),
    ("runtime/x.py", "import scipy.ndimage", ["scipy.ndimage"]),
    ("runtime/x.py", "from hieramp import export", ["hieramp.export"]),
    ("runtime/x.py", "from ..export import graph", ["hieramp.export.graph"]),
    ("runtime/deep/x.py", "from ...export import graph", ["hieramp.export.graph"]),
    ("runtime/x.py", "import importlib\nimportlib.import_module('matplotlib')", ["matplotlib"]),
    ("hieramp_ref/x.py", "from hieramp.runtime import manifest", ["hieramp.runtime.manifest"]),
    ("hieramp_ref/training/x.py", "import hieramp.export.cli", ["hieramp.export.cli"]),
    ("export/x.py", "import runtime.manifest", ["runtime.manifest"]),
    ("tests/x.py", "from export import cli", ["export.cli"]),
    ("benchmarks/x.py", "import engines", ["engines"]),
])
def test_a_wrong_import_is_found(path: str, source: str, expected: list[str]) -> None:
    assert violations(source, Path(path)) == expected


@pytest.mark.parametrize(("path", "source"), [
    ("export/x.py", "import torch, onnx\nfrom hieramp_ref import spec\nfrom hieramp.runtime import manifest"),
    ("export/x.py", "from .graph import build\nfrom ..runtime import manifest"),
    ("runtime/x.py", "import json\nimport numpy as np\nimport onnxruntime\nfrom .manifest import Plan"),
    ("hieramp_ref/training/x.py", "import matplotlib\nfrom ..spec import VarSpec\nfrom torch import export"),
])
def test_a_right_import_passes(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []
