"""The wheel holds every module and data file, generates without PyTorch, and its console scripts answer."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PACKAGES = {"hieramp_ref": "hieramp_ref", "export": "hieramp/export", "runtime": "hieramp/runtime",
            "engines": "hieramp/engines"}
SHIPPED_PLAN = Path("engines/var_cifar10.plan")
SCRIPTS = ["hieramp-run", "hieramp-export", "hieramp-parity", "hieramp-train", "hieramp-eval"]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)


def succeed(*command: str | Path, cwd: Path) -> str:
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def source_of_the_wheel(root: Path) -> list[Path]:
    """Files that belong in the wheel, relative to the root: modules, templates, runtime data, the shipped plan."""
    modules = [path for folder in ("hieramp_ref", "export", "runtime") for path in (root / folder).rglob("*")
               if path.suffix in (".py", ".j2") or path.name == "py.typed"]
    # Not below the plan: engines that were built into it fit one machine.
    data = [path for folder in (Path("runtime/data"), SHIPPED_PLAN) for path in (root / folder).glob("*")
            if path.is_file()]
    return sorted({path.relative_to(root) for path in [*modules, *data, *(root / "engines").glob("*.py")]})


def name_in_wheel(path: Path) -> str:
    return "/".join([PACKAGES[path.parts[0]], *path.parts[1:]])


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that no earlier build/ folder has a part in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo_root / name, source)
    for folder in ("hieramp_ref", "export", "runtime"):
        shutil.copytree(repo_root / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "engines").mkdir()
    for path in (repo_root / "engines").glob("*.py"):
        shutil.copy(path, source / "engines")
    if (repo_root / SHIPPED_PLAN).is_dir():
        shutil.copytree(repo_root / SHIPPED_PLAN, source / SHIPPED_PLAN)
    # Another plan, which must stay out of the wheel.
    (source / "engines/other.plan").mkdir()
    (source / "engines/other.plan/manifest.json").write_text("{}")
    succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=source)
    return next(out.glob("hieramp-*.whl"))


@pytest.fixture(scope="module")
def lean_bin(wheel: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel and its extra `cpu`: what generating needs and nothing more."""
    folder = tmp_path_factory.mktemp("lean")
    succeed(sys.executable, "-m", "venv", folder, cwd=folder)
    install = [folder / "bin/python", "-m", "pip", "install", "-c", repo_root / "constraints.txt"]
    succeed(*install, f"{wheel}[cpu]", cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_every_module_and_data_file(wheel: Path, repo_root: Path) -> None:
    held = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(held) == sorted(name_in_wheel(path) for path in source_of_the_wheel(repo_root))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "onnx", "onnxscript", "matplotlib", "scipy"])
def test_generating_needs_no(module: str, lean_bin: Path, tmp_path: Path) -> None:
    result = run(lean_bin / "python", "-c", f"import {module}", cwd=tmp_path)
    assert f"No module named '{module}'" in result.stderr


@pytest.mark.slow
def test_every_runtime_module_imports_without_torch(lean_bin: Path, repo_root: Path, tmp_path: Path) -> None:
    modules = [".".join(["hieramp", *path.relative_to(repo_root).with_suffix("").parts]).removesuffix(".__init__")
               for path in sorted((repo_root / "runtime").rglob("*.py"))]
    assert "hieramp.runtime.cli" in modules
    succeed(lean_bin / "python", "-c", "\n".join(f"import {module}" for module in modules), cwd=tmp_path)


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
from hieramp.export.parity import cli
assert cli.__file__.startswith(sys.path[0]), cli.__file__
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["compare", "--against", "PLAN", "--images", "2"],
                                     ["diversity", "--images", "10", "--resamples", "100"]], ids=lambda words: words[0])
def test_parity_runs_from_the_wheel_without_torch(command: list[str], wheel: Path, repo_root: Path,
                                                  tmp_path: Path) -> None:
    """The wheel's own modules, this environment's packages, and nothing of the repository."""
    if not (repo_root / SHIPPED_PLAN).is_dir():
        pytest.skip(f"needs the shipped plan {SHIPPED_PLAN}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    installed = tmp_path / "site/hieramp"
    words = [str(installed / "engines/var_cifar10.plan") if word == "PLAN" else word for word in command]
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{WITHOUT_TORCH}"
    succeed(sys.executable, "-c", code, *words, "--report", tmp_path / "report", cwd=tmp_path)
    assert (tmp_path / "report/report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_the_lean_command_answers_help(lean_bin: Path, tmp_path: Path) -> None:
    assert "--ipc" in succeed(lean_bin / "hieramp-run", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_lean_command_draws_from_any_folder(lean_bin: Path, repo_root: Path, tmp_path: Path) -> None:
    if not (repo_root / SHIPPED_PLAN).is_dir():
        pytest.skip(f"needs the shipped plan {SHIPPED_PLAN}")
    succeed(lean_bin / "hieramp-run", "--ipc", "1", "--classes", "2", "--out", "pictures", cwd=tmp_path)
    pictures = sorted((tmp_path / "pictures").glob("*/*.png"))
    assert len(pictures) == 2
    assert len({picture.parent.name for picture in pictures}) == 2


def test_the_console_scripts_are_these() -> None:
    names = {script.name for script in entry_points(group="console_scripts")}
    assert {name for name in names if name.startswith("hieramp-")} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_console_script_answers_help_as_installed(script: str, tmp_path: Path) -> None:
    assert "Usage:" in succeed(Path(sys.executable).parent / script, "--help", cwd=tmp_path)
