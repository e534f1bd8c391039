"""A teacher's outputs are proven by names, or refused with the first class that differs."""

import pytest

from hieramp.runtime.catalogue import Catalogue, load_catalogue
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.errors import TeacherError
from hieramp.runtime.manifest import ClassList
from hieramp.runtime.teacher_classes import teacher_columns

IMAGENET = load_catalogue(ClassList("imagenet"))
CIFAR = load_catalogue(ClassList("names", ("airplane", "big cat", "dog")))
FOLDERS = [entry.folder for entry in IMAGENET.entries]
# Imagewoof as it is published, and in the order of ImageNet.
PUBLISHED = ["n02096294", "n02093754", "n02111889", "n02088364", "n02086240", "n02089973", "n02087394", "n02115641",
             "n02099601", "n02105641"]
WOOF = (155, 159, 162, 167, 182, 193, 207, 229, 258, 273)


def columns(names: list[str], catalogue: Catalogue, spec: str | None = None) -> tuple[int, ...]:
    return teacher_columns("t.onnx", names, catalogue, select_classes(spec, catalogue))


def test_a_teacher_of_all_classes_gives_the_plans_own_numbers() -> None:
    assert columns(FOLDERS, IMAGENET, "imagewoof") == WOOF
    assert columns([entry.name for entry in IMAGENET.entries], IMAGENET, "imagewoof") == WOOF
    assert columns(["Airplane", "big_cat", "dog"], CIFAR) == (0, 1, 2)
    assert columns(["airplane", "big cat", "dog"], CIFAR, "dog,airplane") == (0, 2)


def test_full_names_as_imagenets_lists_have_them_are_known() -> None:
    names = [", ".join((entry.name, *entry.aliases)) for entry in IMAGENET.entries]
    assert names[0] == "tench, Tinca tinca"
    assert columns(names, IMAGENET, "0,") == (0,)


def test_a_teacher_of_the_drawn_classes_must_have_their_order() -> None:
    assert columns(sorted(PUBLISHED), IMAGENET, "imagewoof") == tuple(range(10))
    with pytest.raises(TeacherError, match=r"its class 0 is 'n02096294', that of the dataset 'n02086240' \(Shih-Tzu\)"):
        columns(PUBLISHED, IMAGENET, "imagewoof")


def test_swapped_classes_are_named() -> None:
    swapped = [*FOLDERS[:500], FOLDERS[501], FOLDERS[500], *FOLDERS[502:]]
    with pytest.raises(TeacherError, match=f"its class 500 is '{FOLDERS[501]}', that of the plan '{FOLDERS[500]}'"):
        columns(swapped, IMAGENET, "imagewoof")


def test_more_classes_are_found_by_folder_name() -> None:
    assert columns([*PUBLISHED, "n00000001"], IMAGENET, "imagewoof") == tuple(
        PUBLISHED.index(FOLDERS[index]) for index in WOOF)
    assert columns(["dog", "x", "y", "big_cat", "airplane"], CIFAR) == (4, 3, 0)


@pytest.mark.parametrize(("names", "message"), [
    (["x", "y", "z", "dog", "airplane"], r"knows class 'big_cat' \(big cat\) not at all among its 5"),
    (["airplane", "airplane", "big cat", "dog"], "knows class 'airplane' .*2 times"),
    (["airplane", "dog"], "knows class 'big_cat' .*not at all among its 2"),
    ([], "not at all among its 0"),
])
def test_what_is_not_found_once_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        columns(names, CIFAR)


def test_a_name_of_two_classes_proves_nothing() -> None:
    names = [*(entry.name for entry in IMAGENET.entries), "another"]  # 134 and 517 are both called crane
    with pytest.raises(TeacherError, match=r"knows class 'n02012849' \(crane\) 2 times"):
        columns(names, IMAGENET, "134,")
