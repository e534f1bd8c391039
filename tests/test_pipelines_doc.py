"""The examples of docs/pipelines.md run, in order, in a folder of their own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "pipelines.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def run(language: str, code: str, folder: Path) -> None:
    """With the scripts of this interpreter first on the path, and `datasets` without network and user's cache."""
    search = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": search, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_the_document_has_examples() -> None:
    assert {language for language, _ in EXAMPLES} == {"bash", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, (language, _) in enumerate(EXAMPLES) if language == "python"])
def test_an_example_in_python_runs(number: int, tmp_path: Path) -> None:
    for module, word in (("torch", "torch"), ("datasets", "datasets"), ("onnxscript", "hieramp.export")):
        if word in EXAMPLES[number][1]:
            pytest.importorskip(module)
    run(*EXAMPLES[number], tmp_path)


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    for package in ("pyarrow", "ray"):
        pytest.importorskip(package)
    for language, code in EXAMPLES:
        if language == "bash":
            run(language, code, tmp_path)
    assert (tmp_path / "whole" / "README.md").read_bytes() == (tmp_path / "pictures" / "README.md").read_bytes()
    files = {name: {str(path.relative_to(tmp_path / name)): path.read_bytes()
                    for path in (tmp_path / name).rglob("*") if path.is_file()}
             for name in ("whole", "clustered", "pictures")}
    assert files["whole"] == files["clustered"] == files["pictures"]
