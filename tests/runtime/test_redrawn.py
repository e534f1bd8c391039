"""Pictures that a safer plan drew: what is left of one is not completed by another."""

from pathlib import Path

from hieramp.runtime.redrawn import Redrawn, remove_outdated


def drawn_by(number: int, digest: str) -> Redrawn:
    return Redrawn(number, 0, number, "logits", 2, "fp16", "tiny", digest, "fp32", "onnxruntime (cpu)")


def unit(folder: Path, number: int) -> list[Path]:
    """A picture, and the soft labels that pictures 0 to 2 share."""
    return [folder / f"{number}.png", folder / "soft-000000.npy"]


def left_of(folder: Path, lost: str, drawn: dict[int, Redrawn | None]) -> list[str]:
    """What stays of pictures 0 to 2 and their soft labels without one of them; 0 and 1 were listed as of plan a."""
    files = dict.fromkeys(path for number in range(3) for path in unit(folder, number))
    for path in files:
        path.write_bytes(b"" if path.name == lost else b"whole")
    remove_outdated({number: drawn_by(number, "a") for number in range(2)}, drawn, lambda number: unit(folder, number))
    return [path.name for path in files if path.exists() and path.read_bytes()]


def test_what_lacks_a_file_goes_where_another_plan_drew_it(tmp_path: Path) -> None:
    other = {0: drawn_by(0, "b"), 1: drawn_by(1, "b"), 2: None}
    assert left_of(tmp_path, "soft-000000.npy", other) == ["2.png"]


def test_all_that_share_a_file_go_with_it(tmp_path: Path) -> None:
    """Picture 0 lacked nothing, until the soft labels went with the rest of picture 1."""
    other = {0: drawn_by(0, "b"), 1: drawn_by(1, "b"), 2: None}
    assert left_of(tmp_path, "1.png", other) == ["2.png"]


def test_what_the_same_plan_drew_stays(tmp_path: Path) -> None:
    same = {0: drawn_by(0, "a"), 1: drawn_by(1, "a"), 2: None}
    assert left_of(tmp_path, "soft-000000.npy", same) == ["0.png", "1.png", "2.png"]


def test_what_lacks_nothing_stays(tmp_path: Path) -> None:
    other = {0: drawn_by(0, "b"), 1: drawn_by(1, "b"), 2: None}
    assert left_of(tmp_path, "", other) == ["0.png", "soft-000000.npy", "1.png", "2.png"]
