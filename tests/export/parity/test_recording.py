"""Records: they give back what was recorded, Polygraphy's own command reads them, and a device needs no PyTorch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hieramp.export.errors import ExportError
from hieramp.export.model_source import LoadedModel
from hieramp.export.parity.checkpoint import Checkpoint, checkpoint, observe_checkpoint
from hieramp.export.parity.comparison import compare
from hieramp.export.parity.observation import picture_batches
from hieramp.export.parity.recording import read_facts, read_pairs, record_pairs
from hieramp.runtime import OnnxRuntimeBackend, Plan
from hieramp.runtime.errors import OutputError


@pytest.fixture(scope="module")
def reference(tiny: LoadedModel) -> Checkpoint:
    return checkpoint(tiny.var, tiny.vqvae, tiny.settings, "tiny")


@pytest.fixture(scope="module")
def record(reference: Checkpoint, tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record") / "record"
    pairs = observe_checkpoint(reference, picture_batches(tiny_plan, 7, 5, seed=1))
    assert len(list(record_pairs(pairs, reference.facts, folder))) == 2
    return folder


def test_a_record_gives_back_what_was_recorded(reference: Checkpoint, tiny_plan: Plan, record: Path) -> None:
    assert read_facts(record) == reference.facts
    pairs = observe_checkpoint(reference, picture_batches(tiny_plan, 7, 5, seed=1))
    for (inputs, observed), (read_inputs, read) in zip(pairs, read_pairs(record), strict=True):
        np.testing.assert_array_equal(read_inputs.labels_B, inputs.labels_B)
        np.testing.assert_array_equal(read_inputs.uniforms_BL, inputs.uniforms_BL)
        for name in ("logits", "saliency", "tokens", "drawn"):
            for ours, theirs in zip(getattr(read, name), getattr(observed, name), strict=True):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(read.f_hat_BzPP, observed.f_hat_BzPP)
        np.testing.assert_array_equal(read.free_image_B3SS, observed.free_image_B3SS)


def test_a_record_stands_for_its_reference(reference: Checkpoint, tiny_plan: Plan, record: Path) -> None:
    batches = picture_batches(tiny_plan, 7, 5, seed=1)
    with OnnxRuntimeBackend.open(tiny_plan, threads=1) as backend:
        direct = compare(tiny_plan, backend, reference.facts, observe_checkpoint(reference, batches))
        recorded = compare(tiny_plan, backend, read_facts(record), read_pairs(record))
    assert recorded.figures == direct.figures
    assert recorded.failure is None


@pytest.mark.slow
def test_polygraphy_checks_the_decoder_by_the_record(tiny_plan: Plan, record: Path) -> None:
    """Its own runner and comparison, as on a device."""
    command = "import sys; from polygraphy.tools import main; sys.exit(main())"
    arguments = ["run", str(tiny_plan.path("decoder.onnx")), "--onnxrt", "--rtol", "0",
                 "--load-inputs", str(record / "decoder.inputs.json"),
                 "--load-outputs", str(record / "decoder.outputs.json"), "--atol"]
    for tolerance, passes in (("1e-4", True), ("1e-12", False)):
        done = subprocess.run([sys.executable, "-c", command, *arguments, tolerance], capture_output=True, text=True)
        assert (done.returncode == 0) is passes, done.stdout


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
from hieramp.export.parity.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_device_needs_no_pytorch(tiny_plan: Plan, record: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--plan", str(tiny_plan.folder), "--recorded", str(record), "--threads", "1",
                 "--report", str(tmp_path / "report"), "--json"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True
    assert (tmp_path / "report/report.html").is_file()
    without = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments[:3]], capture_output=True, text=True)
    assert without.returncode == 2
    assert "needs PyTorch" in without.stderr and without.stderr.count("\n") == 1


def damaged(name: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: change(folder / name)


@pytest.mark.parametrize("damage", [
    damaged("record.json", lambda path: path.unlink()), damaged("record.json", lambda path: path.write_text("{}")),
    damaged("record.json", lambda path: path.write_text("[")),
    damaged("batch_001.outputs.json", lambda path: path.unlink()),
    damaged("batch_000.outputs.json", lambda path: path.write_text(path.read_text()[:-100])),
    damaged("batch_000.inputs.json", lambda path: path.write_text("{}")),
], ids=["no_record", "empty", "no_json", "no_batch", "cut", "other"])
def test_damaged_records(record: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    for path in record.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(ExportError, match=r"no record|record again"):
        read_facts(folder)
        list(read_pairs(folder))


def test_another_folder_is_not_replaced(reference: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="is no record"):
        list(record_pairs([], reference.facts, tmp_path))
    assert (tmp_path / "letters.txt").is_file()


def test_an_interrupted_recording_leaves_nothing(reference: Checkpoint, tiny_plan: Plan, tmp_path: Path) -> None:
    pairs = record_pairs(observe_checkpoint(reference, picture_batches(tiny_plan, 7, 5, seed=1)), reference.facts,
                         tmp_path / "record")
    next(pairs)
    pairs.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())
