"""The --classes language over the CIFAR-10 names and over ImageNet's."""

from pathlib import Path

import pytest

from hieramp.runtime.catalogue import Catalogue, folder_names, load_catalogue
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.errors import ClassSpecError
from hieramp.runtime.manifest import ClassList

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def cifar10() -> Catalogue:
    return load_catalogue(ClassList("cifar10", CIFAR10))


@pytest.fixture(scope="module")
def imagenet() -> Catalogue:
    return load_catalogue(ClassList("imagenet"))


def ids(spec: str | None, catalogue: Catalogue) -> list[int]:
    return [entry.index for entry in select_classes(spec, catalogue)]


@pytest.mark.parametrize(("spec", "expected"), [
    (None, list(range(10))),
    ("3", [0, 1, 2]),
    ("10", list(range(10))),
    ("3,", [3]),
    ("3-3", [3]),
    ("0", None),
    ("9, 0 ,2-4", [0, 2, 3, 4, 9]),
    ("1,0-2,automobile", [0, 1, 2]),
    ("Airplane,CAT", [0, 3]),
    ("cat", [3]),
])
def test_ids_and_names(cifar10: Catalogue, spec: str | None, expected: list[int] | None) -> None:
    if expected is None:
        with pytest.raises(ClassSpecError, match="0 is no count of classes"):
            ids(spec, cifar10)
    else:
        assert ids(spec, cifar10) == expected


@pytest.mark.parametrize(("spec", "expected"), [
    ("golden retriever", [207]),
    ("Golden_Retriever,tabby", [207, 281]),
    ("n02102040", [217]),
    ("N02102040,tench", [0, 217]),
    ("Tinca tinca", [0]),
    ("hen-of-the-woods", [996]),
    ("imagenette", [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]),
    ("ImageWoof", [155, 159, 162, 167, 182, 193, 207, 229, 258, 273]),
    ("gong", [577]),
])
def test_imagenet_words(imagenet: Catalogue, spec: str, expected: list[int]) -> None:
    assert ids(spec, imagenet) == expected


def test_imagenet_entries(imagenet: Catalogue) -> None:
    entries = imagenet.entries
    assert len(entries) == 1000
    assert [e.folder for e in entries] == sorted({e.folder for e in entries})  # ids follow the sorted WordNet ids
    assert (entries[0].folder, entries[0].name) == ("n01440764", "tench")
    assert (entries[999].folder, entries[999].name) == ("n15075141", "toilet tissue")
    assert len(ids("imagenet100", imagenet)) == 100


def test_a_file_holds_items_line_by_line(imagenet: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("# dogs\nn02102040  # springer\n\n3\n5-6, 9\ntabby\n")
    assert ids(f"@{path}", imagenet) == [3, 5, 6, 9, 217, 281]


def test_a_name_with_a_comma_may_stand_alone() -> None:
    catalogue = load_catalogue(ClassList("names", ("crane, bird", "crane, machine", "bird")))
    assert ids("crane, machine", catalogue) == [1]


@pytest.mark.parametrize(("spec", "message"), [
    ("airplain", "class 'airplain' does not exist; did you mean 'airplane'"),
    ("cat,zzzzzz", r"class 'zzzzzz' does not exist; the 10 classes of this plan \(cifar10\) go from 0 \(airplane\)"),
    ("10,", "class 10 does not exist"),
    ("5-12", "class 12 does not exist"),
    ("0-999999999", "class 999999999 does not exist"),
    ("7-3", "range 7-3 of --classes runs backwards; write 3-7"),
    ("11", "11 is no count of classes"),
    ("", "names no class"),
    (" , ", "names no class"),
    ("imagenette", "class 'imagenette' does not exist"),
    ("-1", "class '-1' does not exist"),
    ("9" * 5000, "does not exist"),
    ("@/no/such/list", "cannot read the class list /no/such/list: No such file"),
])
def test_what_does_not_exist_is_named(cifar10: Catalogue, spec: str, message: str) -> None:
    with pytest.raises(ClassSpecError, match=message):
        ids(spec, cifar10)


def test_an_ambiguous_name_lists_its_meanings(imagenet: Catalogue) -> None:
    meanings = r"n02012849 \(id 134\), n03126707 \(id 517\)"
    with pytest.raises(ClassSpecError, match=f"'crane' is ambiguous: it may be {meanings}; give one of these"):
        ids("crane", imagenet)


def test_folders_are_safe_and_distinct() -> None:
    names = ("a/b", "a b", "ok", "OK", "..", "été", "x" * 99)
    assert folder_names(names) == ("0000_a_b", "0001_a_b", "0002_ok", "0003_OK", "0004", "été", "x" * 80)
