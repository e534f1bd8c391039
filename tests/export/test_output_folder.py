"""The plan's folder appears in one step, or not at all."""

from pathlib import Path

import pytest

from hieramp.export.errors import ExportError
from hieramp.export.output_folder import folder_in_one_step


def older_plan(out: Path) -> Path:
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("old")
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "x.plan"
    with folder_in_one_step(out) as folder:
        (folder / "manifest.json").write_text("new")
        assert not out.exists()
    assert names(out.parent) == ["x.plan"] and names(out) == ["manifest.json"]
    assert out.stat().st_mode & 0o755 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    out = older_plan(tmp_path / "x.plan")
    with pytest.raises(error), folder_in_one_step(out) as folder:
        (folder / "manifest.json").write_text("new")
        raise error
    assert names(tmp_path) == ["x.plan"] and (out / "manifest.json").read_text() == "old"


def test_an_older_plan_survives_a_failing_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = older_plan(tmp_path / "x.plan"), Path.rename

    def fail_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.startswith(".x.plan.") and not path.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="No space"), folder_in_one_step(out) as folder:
        (folder / "manifest.json").write_text("new")
    assert names(tmp_path) == ["x.plan"] and (out / "manifest.json").read_text() == "old"


def test_a_plan_is_replaced_with_all_its_files(tmp_path: Path) -> None:
    out = older_plan(tmp_path / "x.plan")
    (out / "scale_00.onnx").touch()
    with folder_in_one_step(out) as folder:
        (folder / "manifest.json").write_text("new")
    assert names(tmp_path) == ["x.plan"] and names(out) == ["manifest.json"]


def test_a_link_goes_on_pointing_at_the_plan(tmp_path: Path) -> None:
    out, link = older_plan(tmp_path / "disk" / "x.plan"), tmp_path / "link.plan"
    link.symlink_to(out)
    with folder_in_one_step(link) as folder:
        (folder / "manifest.json").write_text("new")
    assert link.is_symlink() and (out / "manifest.json").read_text() == "new"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x.plan").mkdir()
    with folder_in_one_step(tmp_path / "x.plan") as folder:
        (folder / "manifest.json").touch()
    assert names(tmp_path / "x.plan") == ["manifest.json"]


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="is not empty and no plan"), folder_in_one_step(tmp_path):
        pass
    assert names(tmp_path) == ["notes.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_text("mine")
    with pytest.raises(ExportError, match="is a file"), folder_in_one_step(tmp_path / "x.plan"):
        pass
    assert (tmp_path / "x.plan").read_text() == "mine"


def test_a_parent_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="file cannot be written"), folder_in_one_step(tmp_path / "file" / "x.plan"):
        pass
