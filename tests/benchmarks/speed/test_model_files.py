"""What names a model to the scripts that draw with it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hieramp.export.plan_settings import reference_settings
from hieramp.runtime import Plan
from hieramp.runtime.plan import shipped_plan
from hieramp_ref.settings import settings_from_json

Script = Callable[[str], ModuleType]


def test_the_reference_draws_with_the_settings_of_the_shipped_plan(script: Script, tmp_path: Path) -> None:
    files = script("speed.model_files").ModelFiles("var_cifar10", None, tmp_path)
    *others, name, path = files.reference_options
    assert (others, name) == (["--preset", "var_cifar10"], "--settings")
    spec, plan = files.source.spec, Plan.open(shipped_plan())
    assert settings_from_json(spec, path) == reference_settings(plan.manifest)


def test_another_model_has_weights_of_its_own(script: Script, tmp_path: Path) -> None:
    files = script("speed.model_files").ModelFiles("var_d16", None, tmp_path)
    assert files.reference_options == ["--preset", "var_d16", "--weights", tmp_path] and files.settings == []


def test_nothing_to_prepare_leaves_a_folder_to_draw_to(script: Script, tmp_path: Path) -> None:
    model_files, work = script("speed.model_files"), tmp_path / "new" / "work"
    model_files.prepare(model_files.ModelFiles("var_cifar10", None, work), {"fp32"}, 0)
    assert work.is_dir() and not any(work.iterdir())
