"""Every layout, read back by the library its users read it with: pictures and labels against the plan itself."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp.runtime import OnnxRuntimeBackend, PictureKey, Plan, draw_pictures, resolve_settings
from hieramp.runtime.catalogue import ClassEntry, load_catalogue
from hieramp.runtime.images import to_uint8
from hieramp.runtime.job import Job
from hieramp.runtime.manifest import ClassList, Manifest
from hieramp.runtime.run_job import run_job
from hieramp.runtime.writers.picture_folder import FolderSink
from hieramp.runtime.writers.writer import Encoded

IPC, BATCH = 3, 4
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Imagewoof, whose published order starts with 193 and is not sorted, in the order of ImageNet.
WOOF = {155: "n02086240", 159: "n02087394", 162: "n02088364", 167: "n02089973", 182: "n02093754", 193: "n02096294",
        207: "n02099601", 229: "n02105641", 258: "n02111889", 273: "n02115641"}
Example = tuple[np.ndarray, int]


@pytest.fixture(params=["cifar10", "imagewoof"])
def case(request: pytest.FixtureRequest, make_plan: Callable[..., Path],
         make_manifest: Callable[..., Manifest]) -> tuple[Path, str | None, list[int]]:
    """A plan, what to draw, and the model's numbers of these classes by label."""
    model = make_manifest().model
    if request.param == "cifar10":
        plan = make_plan(model=replace(model, num_classes=10), classes=ClassList("cifar10", CIFAR10))
        return plan, None, list(range(10))
    return make_plan(model=replace(model, num_classes=1000), classes=ClassList("imagenet")), "imagewoof", list(WOOF)


@pytest.fixture
def written(case: tuple[Path, str | None, list[int]], tmp_path: Path) -> Callable[[str], Path]:
    """Writes the case in a layout; tar and Parquet files hold two batches, hence there are four."""
    def write(layout: str, teacher: Path | None = None) -> Path:
        out = tmp_path / layout
        run_job(Job(out, case[0], case[1], ipc=IPC, batch_size=BATCH, threads=1, layout=layout, shard_size=2 * BATCH,
                    teacher=teacher))
        return out

    return write


def expected_pixels(folder: Path, class_ids: list[int]) -> Iterator[list[bytes]]:
    """Pixels of each class's pictures by label, straight from the loop."""
    plan = Plan.open(folder)
    keys = [PictureKey(label, index) for label in class_ids for index in range(IPC)]
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        pictures = draw_pictures(backend, plan, resolve_settings(plan.manifest), keys, seed=0, batch_size=BATCH)
        pixels = [to_uint8(picture.image_3SS).tobytes() for picture in pictures]
    return (pixels[start:start + IPC] for start in range(0, len(pixels), IPC))


def check(examples: list[Example], case: tuple[Path, str | None, list[int]], out: Path) -> None:
    """Every picture is there once, under the label that classes.json gives its class."""
    class_ids = case[2]
    listed = json.loads((out / "classes.json").read_text())
    assert [(entry["label"], entry["index"]) for entry in listed] == list(enumerate(class_ids))
    wanted = list(expected_pixels(case[0], class_ids))
    assert len({tuple(sorted(pixels)) for pixels in wanted}) == len(class_ids)  # so that no two labels can be swapped
    found = [sorted(image.tobytes() for image, label in examples if label == wanted_label)
             for wanted_label in range(len(class_ids))]
    assert found == [sorted(pixels) for pixels in wanted]
    assert len(examples) == len(class_ids) * IPC


def rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def teacher(case: tuple[Path, str | None, list[int]], make_teacher: Callable[..., Path]) -> Path:
    """A teacher of all the plan's classes, named by folder: for Imagewoof it has a thousand outputs."""
    if case[1] is None:
        return make_teacher(CIFAR10)
    return make_teacher([entry.folder for entry in load_catalogue(ClassList("imagenet")).entries])


def check_soft(examples: list[tuple[np.ndarray, int, np.ndarray]], out: Path, teacher: Path,
               teacher_says: Callable[..., np.ndarray]) -> None:
    """Every picture's soft label is what the teacher says of its pixels, at the outputs that classes.json tells."""
    columns = [entry["index"] for entry in json.loads((out / "classes.json").read_text())]
    outputs = 10 if columns[0] == 0 else 1000
    wanted = teacher_says(np.stack([image for image, _, _ in examples]), outputs)[:, columns]
    found = np.stack([np.asarray(soft) for _, _, soft in examples])
    assert len(examples) == 10 * IPC
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    record = json.loads((out / "dataset.json").read_text())
    agreed = [wanted[row].argmax() == label for row, (_, label, _) in enumerate(examples)]
    assert record["teacher_agreement"] == pytest.approx(np.mean(agreed))
    assert record["teacher_columns"] == columns
    assert f"for {np.mean(agreed):.1%} of the pictures" in (out / "README.md").read_text()


def image_folder(root: Path) -> tuple[list[str], list[Example]]:
    """What torchvision's ImageFolder does, which does not import here: class folders numbered by sorted name."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return names, [(rgb(path), number) for number, name in enumerate(names) for path in sorted((root / name).iterdir())]


@pytest.mark.parametrize("layout", ["folder", "rded"])
def test_soft_labels_of_folders(layout: str, written: Callable[..., Path], case: tuple[Path, str | None, list[int]],
                                teacher: Path, teacher_says: Callable[..., np.ndarray]) -> None:
    """As the card says: a row a picture, by label and index; class folders hold pictures and nothing else."""
    out = written(layout, teacher)
    soft_NV = np.concatenate([np.load(path) for path in sorted(out.glob("soft-*.npy"))])
    classes = json.loads((out / "classes.json").read_text())
    images = [rgb(path) for entry in classes for path in sorted((out / entry["folder"]).iterdir())]
    check([(image, row // IPC) for row, image in enumerate(images)], case, out)
    examples = [(image, row // IPC, soft_NV[row]) for row, image in enumerate(images)]
    check_soft(examples, out, teacher, teacher_says)
    assert soft_NV.dtype == np.float32 and len(soft_NV) == len(images)


def test_soft_labels_of_webdataset(written: Callable[..., Path], teacher: Path,
                                   teacher_says: Callable[..., np.ndarray], offline: Path) -> None:
    webdataset, datasets = pytest.importorskip("webdataset"), pytest.importorskip("datasets")
    out = written("webdataset", teacher)
    reader = webdataset.WebDataset(str(out / "data-{000000..000003}.tar"), shardshuffle=False)
    rows = list(reader.decode("rgb8").to_tuple("png", "cls", "soft.npy"))
    check_soft(rows, out, teacher, teacher_says)
    table = datasets.load_dataset(str(out), split="train", cache_dir=str(offline))
    check_soft([(np.asarray(row["png"]), row["cls"], row["soft.npy"]) for row in table], out, teacher, teacher_says)


def test_soft_labels_of_parquet(written: Callable[..., Path], teacher: Path, teacher_says: Callable[..., np.ndarray],
                                offline: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = written("parquet", teacher)
    table = datasets.load_dataset(str(out), split="train", cache_dir=str(offline))
    assert table.features["soft_label"].feature == datasets.Value("float32")
    check_soft([(np.asarray(row["image"]), row["label"], row["soft_label"]) for row in table], out, teacher,
               teacher_says)


def test_image_folder(written: Callable[[str], Path], case: tuple[Path, str | None, list[int]]) -> None:
    out = written("folder")
    names, examples = image_folder(out)
    assert names == (sorted(CIFAR10) if case[1] is None else sorted(WOOF.values()))
    # As the card says.
    classes = json.loads((out / "classes.json").read_text())
    labels = [entry["label"] for entry in sorted(classes, key=lambda entry: entry["folder"])]
    check([(image, labels[number]) for image, number in examples], case, out)


def test_rded(written: Callable[[str], Path], case: tuple[Path, str | None, list[int]]) -> None:
    """RDED's loader takes the first `ipc` names that listdir gives of folder 00000, 00001, …"""
    out = written("rded")
    files = [(out / f"{label:05d}" / name, label) for label in range(10)
             for name in os.listdir(out / f"{label:05d}")]
    check([(rgb(path), label) for path, label in files], case, out)
    assert sorted(os.listdir(out / "00003")) == [f"class00003_id0000{index}.png" for index in range(IPC)]


def test_webdataset(written: Callable[[str], Path], case: tuple[Path, str | None, list[int]]) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = written("webdataset")
    reader = webdataset.WebDataset(str(out / "data-{000000..000003}.tar"), shardshuffle=False)
    rows = list(reader.decode("rgb8").to_tuple("__key__", "png", "cls", "json"))
    check([(image, label) for _, image, label, _ in rows], case, out)
    assert [key for key, *_ in rows] == [f"{number:06d}" for number in range(10 * IPC)]
    classes = json.loads((out / "classes.json").read_text())
    for number, (_, _, label, about) in enumerate(rows):
        entry = classes[label]
        assert about == {"label": number // IPC, "class": entry["folder"], "name": entry["name"],
                         "class_index": entry["index"], "index": number % IPC, "seed": 0}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`datasets` without a network and without the user's cache."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


def test_parquet(written: Callable[[str], Path], case: tuple[Path, str | None, list[int]], offline: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = written("parquet")
    table = datasets.load_dataset("parquet", data_files=str(out / "data/train-*.parquet"), split="train",
                                  cache_dir=str(offline))
    assert isinstance(table.features["image"], datasets.Image)
    check([(np.asarray(row["image"]), row["label"]) for row in table], case, out)
    names = [entry["name"] for entry in json.loads((out / "classes.json").read_text())]
    assert table.features["label"].names == names
    assert table["class_index"][:] == [class_id for class_id in case[2] for _ in range(IPC)]


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "folder"])
def test_the_card_tells_datasets_where_the_pictures_are(layout: str, written: Callable[[str], Path],
                                                        case: tuple[Path, str | None, list[int]],
                                                        offline: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = written(layout)
    table = datasets.load_dataset(str(out), split="train", cache_dir=str(offline))
    image, label = ("png", "cls") if layout == "webdataset" else ("image", "label")
    examples = [(np.asarray(row[image]), row[label]) for row in table]
    if layout == "folder":  # numbered by sorted folder names, as torchvision does
        classes = sorted(json.loads((out / "classes.json").read_text()), key=lambda entry: entry["folder"])
        assert table.features["label"].names == [entry["folder"] for entry in classes]
        examples = [(pixels, classes[number]["label"]) for pixels, number in examples]
    check(examples, case, out)


def test_the_pictures_are_the_same_files_in_every_layout(written: Callable[[str], Path]) -> None:
    import tarfile

    import pyarrow.parquet

    folder, rded, tars, tables = map(written, ("folder", "rded", "webdataset", "parquet"))
    classes = json.loads((folder / "classes.json").read_text())
    files = [(folder / entry["folder"] / f"{index:05d}.png").read_bytes() for entry in classes for index in range(IPC)]
    assert [path.read_bytes() for path in sorted(rded.glob("0*/*.png"))] == files
    members = []
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as tar:
            members += [tar.extractfile(member).read() for member in tar if member.name.endswith(".png")]
    assert members == files
    columns = [pyarrow.parquet.read_table(path)["image"].to_pylist() for path in sorted(tables.glob("data/*"))]
    assert [image["bytes"] for column in columns for image in column] == files


def test_a_tar_says_nothing_of_the_machine(written: Callable[[str], Path]) -> None:
    import tarfile

    with tarfile.open(written("webdataset") / "data-000000.tar") as tar:
        about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
        assert about == {(0, 0, 0, "", "", 0o644)}
        assert tar.getnames()[:4] == ["000000.png", "000000.cls", "000000.json", "000001.png"]


def test_a_unit_that_lacks_a_picture_keeps_the_others_unless_they_have_soft_labels(tmp_path: Path) -> None:
    """Their file has a row for every picture, so it cannot be written without one."""
    entry = ClassEntry(0, "ant", "ant")
    for soft, kept in ((None, True), (np.zeros(2, np.float32), False)):
        path = tmp_path / f"{kept}.png"
        sink = FolderSink(lambda number, path=path: path, None if soft is None else tmp_path / "soft-000000.npy")
        sink.add([Encoded(b"png", entry, 0, 0, 0, soft)])
        sink.keep()
        assert path.exists() == kept
    assert [file.name for file in tmp_path.iterdir()] == ["True.png"]
