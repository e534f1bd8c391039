import json
import statistics
from pathlib import Path

import pytest
import torch
from PIL import Image

from hieramp_ref.errors import SpecError
from hieramp_ref.students.evaluation import Evaluation, Spread, evaluate
from hieramp_ref.students.protocol import SOFT

from .conftest import CLASSES, tiny_settings


def test_the_figures_are_those_of_the_seeds(distilled: Path, test_folder: Path, tmp_path: Path) -> None:
    asked = Evaluation(str(distilled), test_folder, tmp_path, tiny_settings(test_every=3), seeds=2)
    result = evaluate(asked)
    last = [run.last for run in result.runs]
    assert result.last == Spread(statistics.fmean(last), statistics.stdev(last))
    assert result.best.mean >= result.last.mean
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["classes"] == list(CLASSES)
    assert [run["last"] for run in written["runs"]] == last
    assert (written["images"], written["ipc"], written["seeds"]) == (12, 4, 2)
    for name in ("accuracy.png", "confusion.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    assert evaluate(asked) == result  # from the states that it kept


def test_a_random_real_subset_is_another_one_for_every_seed(toy_cifar10: Path, tmp_path: Path) -> None:
    asked = Evaluation("cifar10:random:1", toy_cifar10, tmp_path, tiny_settings(epochs=1, batch_size=10), seeds=2)
    result = evaluate(asked)
    assert (result.images, result.ipc) == (10, 1)
    states = [json.loads(torch.load(tmp_path / f"seed{seed}.pt")["identity"]) for seed in (0, 1)]
    assert states[0]["train"] != states[1]["train"] and states[0]["test"] == states[1]["test"]
    assert sum(map(sum, result.runs[0].confusion)) == 20


def test_one_seed_has_no_deviation() -> None:
    assert Spread.of([0.5]) == Spread(0.5, None)
    assert str(Spread.of([0.5])) == "50.0 %"
    assert str(Spread.of([0.1, 0.2, 0.3])) == "20.0 % ± 10.0"


def test_a_protocol_and_its_teacher_go_together(distilled: Path, test_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="protocol soft needs a teacher"):
        Evaluation(str(distilled), test_folder, tmp_path, tiny_settings(SOFT))
    with pytest.raises(SpecError, match="protocol hard takes no teacher"):
        Evaluation(str(distilled), test_folder, tmp_path, tiny_settings(), teacher=tmp_path)
