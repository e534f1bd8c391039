import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hieramp_ref.errors import DataError
from hieramp_ref.students.datasets import (
    CIFAR10_CLASSES,
    ClassLabel,
    LabelledImages,
    aligned,
    random_subset,
    read_cifar10,
    read_dataset,
    read_test,
)

from .conftest import CLASSES, MakeFolder


def brightest(data: LabelledImages) -> list[int]:
    """The colour that tells a toy picture's class."""
    return data.images.float().mean((2, 3)).argmax(1).tolist()


def test_labels_come_from_the_list_and_not_from_the_folders_order(distilled: Path) -> None:
    data = read_dataset(distilled)
    assert data.images.shape == (12, 3, 8, 8) and data.images.dtype == torch.uint8
    assert [entry.name for entry in data.classes] == list(CLASSES) != sorted(CLASSES)
    assert data.labels.tolist() == brightest(data) == [0] * 4 + [1] * 4 + [2] * 4
    assert data.ipc == 4


def test_a_list_in_any_order_gives_labels_by_index(distilled: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(4, 0)
    entries = json.loads((folder / "classes.json").read_text())
    (folder / "classes.json").write_text(json.dumps(entries[::-1]))
    assert torch.equal(read_dataset(folder).images, read_dataset(distilled).images)
    assert read_dataset(folder).classes == read_dataset(distilled).classes


def test_test_images_get_the_labels_of_the_same_names(distilled: Path, test_folder: Path) -> None:
    test = read_test(test_folder, 8)
    assert [entry.name for entry in test.classes] == sorted(CLASSES)
    train = read_dataset(distilled)
    data = aligned(test, train.classes)
    assert data.classes == train.classes
    assert data.labels.tolist() == brightest(data)
    assert data.labels.bincount().tolist() == [20, 20, 20]


def test_a_run_of_some_classes_is_tested_on_these(test_folder: Path) -> None:
    wanted = (ClassLabel(2, "bar", "bar"), ClassLabel(5, "f5", "GAP"))
    data = aligned(read_test(test_folder, 8), wanted)
    assert data.labels.bincount().tolist() == [20, 20]
    assert [CLASSES[colour] for colour in brightest(data)] == [("bar", "gap")[label] for label in data.labels.tolist()]


def test_underscores_and_case_do_not_separate_names() -> None:
    classes = (ClassLabel(None, "x", "y"), ClassLabel(None, "Golden_Retriever", "a"))
    test = LabelledImages(torch.zeros(1, 3, 1, 1), torch.tensor([1]), classes)
    assert aligned(test, [ClassLabel(0, "golden_retriever", "golden retriever")]).labels.tolist() == [0]


def test_a_class_without_counterpart_is_refused(test_folder: Path) -> None:
    with pytest.raises(DataError, match=r"class 'cat' .* has no counterpart by name .*--match index"):
        aligned(read_test(test_folder, 8), CIFAR10_CLASSES[3:4])


def test_a_class_with_two_counterparts_is_refused() -> None:
    classes = (ClassLabel(0, "crane", "crane"), ClassLabel(1, "crane_1", "crane"))
    test = LabelledImages(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), classes)
    with pytest.raises(DataError, match="has 2 counterparts by name"):
        aligned(test, [ClassLabel(0, "crane", "crane")])


def test_indices_match_where_asked_and_known(distilled: Path, test_folder: Path) -> None:
    numbered = (ClassLabel(7, "a", "a"), ClassLabel(1, "b", "b"))
    test = LabelledImages(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), numbered)
    wanted = [ClassLabel(1, "dot", "dot"), ClassLabel(7, "seven", "seven")]
    assert aligned(test, wanted, "index").labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="has no counterpart by index"):
        aligned(read_test(test_folder, 8), read_dataset(distilled).classes, "index")


@pytest.mark.parametrize("below", ["test", "val"])
def test_a_split_of_an_image_folder_is_found(make_folder: MakeFolder, below: str) -> None:
    assert len(read_test(make_folder(2, 3, below=below), 8).images) == 6


def test_images_are_resized_where_asked(distilled: Path) -> None:
    assert read_dataset(distilled, 16).images.shape == (12, 3, 16, 16)


def test_a_folder_without_a_list_is_refused(test_folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no classes\.json: labels are not taken from the order of folders"):
        read_dataset(test_folder)


def test_a_dataset_that_is_not_complete_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(1, 0)
    (folder / "dataset.json").write_text(json.dumps({"complete": False}))
    with pytest.raises(DataError, match="is not complete: run the command that made it again"):
        read_dataset(folder)


@pytest.mark.parametrize("content", ["[]", "null", '"complete"'])
def test_a_record_that_is_none_is_refused(make_folder: MakeFolder, content: str) -> None:
    folder = make_folder(1, 0)
    (folder / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json is no record of a run"):
        read_dataset(folder)


@pytest.mark.parametrize("side", [None, 8])
def test_an_image_too_large_to_be_one_is_named(distilled: Path, monkeypatch: pytest.MonkeyPatch, side: int | None
                                               ) -> None:
    """Pillow refuses pictures of more than twice its limit, whose decoding could fill the memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"00000\.png is no readable image: .*exceeds limit"):
        read_dataset(distilled, side)


def test_a_class_without_images_is_named(make_folder: MakeFolder) -> None:
    folder = make_folder(1, 0)
    (folder / "dot" / "00000.png").unlink()
    with pytest.raises(DataError, match="holds no images of class 'dot'"):
        read_dataset(folder)


@pytest.mark.parametrize(("listing", "message"), [
    ('[{"folder": "gap", "index": 0}]', "does not list the classes"),
    ('[{"folder": "gap", "index": Infinity, "name": "gap"}]', "does not list the classes"),
    ("{", "cannot be read"),
    ("[]", "must list classes"),
    ('[{"folder": "../gap", "index": 0, "name": "gap"}]', "folders of its own"),
    ('[{"folder": "gap", "index": 0, "name": "a"}, {"folder": "dot", "index": 0, "name": "b"}]', "two classes of one"),
])
def test_a_list_that_does_not_say_the_classes_is_refused(make_folder: MakeFolder, listing: str, message: str) -> None:
    folder = make_folder(1, 0)
    (folder / "classes.json").write_text(listing)
    with pytest.raises(DataError, match=message):
        read_dataset(folder)


@pytest.mark.parametrize("reader", [read_dataset, lambda path: read_test(path, 8),
                                    lambda path: read_cifar10(path, "test")])
def test_a_path_that_is_not_there_is_named(reader: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        reader(tmp_path / "absent")  # type: ignore[operator]


def test_a_random_subset_has_as_many_of_each_class_and_grows() -> None:
    labels = torch.arange(60) % 3
    real = LabelledImages(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 1, 1), labels,
                          CIFAR10_CLASSES[:3])
    small, large, other = random_subset(real, 2, 0), random_subset(real, 5, 0), random_subset(real, 5, 1)
    assert large.labels.bincount().tolist() == [5, 5, 5]
    numbers = [set(data.images[:, 0, 0, 0].tolist()) for data in (small, large, other)]
    assert numbers[0] < numbers[1] != numbers[2]
    assert torch.equal(labels[large.images[:, 0, 0, 0].long()], large.labels)
    with pytest.raises(DataError, match="IPC must be at most 20 here, got 21"):
        random_subset(real, 21, 0)


def test_cifar10_has_its_own_names(cifar10_path: Path) -> None:
    test = read_test(cifar10_path, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert aligned(test, CIFAR10_CLASSES[::-1]).labels.tolist() == (9 - test.labels).tolist()
