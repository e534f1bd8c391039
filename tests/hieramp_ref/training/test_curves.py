"""The panels of a run's curves, and that they are drawn."""

from pathlib import Path

from PIL import Image

from hieramp_ref.training.curves import curve_names, draw_curves

HISTORY = [
    {"step": 1.0, "loss": 3.0, "lr": 1e-3, "seconds": 1.0},
    {"step": 2.0, "loss": 2.0, "lr": 1e-3, "seconds": 2.0, "val_loss": 2.5, "val_psnr": 20.0},
    {"step": 3.0, "val_accuracy": 0.5, "val_loss": 2.4, "val_psnr": 21.0},
]


def test_a_figure_needs_two_points_to_be_a_curve() -> None:
    assert curve_names(HISTORY) == ["loss", "psnr"]


def test_two_panels_stand_side_by_side(tmp_path: Path) -> None:
    draw_curves(HISTORY, tmp_path / "curves.png", "run")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (800, 300)


def test_a_run_that_just_began_has_an_empty_sheet(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "curves.png", "run")
    assert (tmp_path / "curves.png").exists()
