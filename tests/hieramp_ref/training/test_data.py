"""Readers of training images, on packs and folders written here."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hieramp_ref.errors import DataError
from hieramp_ref.training.data import DATA_VARIABLE, load_held_out, load_images


def noise(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_pack(path: Path, images: np.ndarray, labels: list[int], is_test: list[bool]) -> list[bytes]:
    """Write a pack of JPEG files that share their first bytes; gives the files."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=75)
        files.append(buffer.getvalue())
    bodies = [file[100:] for file in files]
    np.savez(path, header=np.frombuffer(files[0][:100], np.uint8), body=np.frombuffer(b"".join(bodies), np.uint8),
             n=np.array([len(body) for body in bodies]), y=np.array(labels, np.uint8), test=np.array(is_test))
    return files


def test_pack_gives_the_pixels_of_its_jpeg_files(tmp_path: Path) -> None:
    files = write_pack(tmp_path / "pack.npz", noise(4), [2, 0, 1, 1], [False, True, False, False])
    images, labels = load_images(tmp_path / "pack.npz", "train", 32)
    assert labels.tolist() == [2, 1, 1] and images.dtype == torch.uint8
    expected = [np.asarray(Image.open(io.BytesIO(files[i]))).transpose(2, 0, 1) for i in (0, 2, 3)]
    np.testing.assert_array_equal(images.numpy(), np.stack(expected))
    assert load_images(tmp_path / "pack.npz", "test", 32)[1].tolist() == [0]


def test_pack_is_resized_to_the_model(tmp_path: Path) -> None:
    write_pack(tmp_path / "pack.npz", np.full((1, 32, 32, 3), 90, np.uint8), [0], [False])
    images, _ = load_images(tmp_path / "pack.npz", "train", 16)
    assert images.shape == (1, 3, 16, 16)
    assert (images.int() - 90).abs().max() <= 2


def write_batches(path: Path) -> np.ndarray:
    """The original folder's layout, two images a file."""
    rows = np.random.default_rng(5).integers(0, 256, (12, 3072), dtype=np.uint8)
    path.mkdir()
    for i, name in enumerate([f"data_batch_{b}" for b in range(1, 6)] + ["test_batch"]):
        batch = {b"data": rows[2 * i : 2 * i + 2], b"labels": [i, 9 - i], b"filenames": [b"a.png", b"b.png"]}
        (path / name).write_bytes(pickle.dumps(batch, protocol=2))
    return rows


def test_original_folder(tmp_path: Path) -> None:
    rows = write_batches(tmp_path / "cifar-10-batches-py")
    images, labels = load_images(tmp_path / "cifar-10-batches-py", "train", 32)
    np.testing.assert_array_equal(images.numpy(), rows[:10].reshape(10, 3, 32, 32))
    assert labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert load_images(tmp_path / "cifar-10-batches-py", "test", 32)[1].tolist() == [5, 4]


def test_original_folder_is_read_by_a_numpy_without_its_new_module(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_batches(tmp_path / "batches")
    monkeypatch.delattr(np, "_core", raising=False)
    np.testing.assert_array_equal(load_images(tmp_path / "batches", "test", 32)[0].flatten(1).numpy(), rows[10:])


class _Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_that_calls_is_refused(tmp_path: Path) -> None:
    write_batches(tmp_path / "batches")
    (tmp_path / "batches" / "test_batch").write_bytes(pickle.dumps(_Harmful(tmp_path / "touched")))
    with pytest.raises(DataError, match="it asks for"):
        load_images(tmp_path / "batches", "test", 32)
    assert not (tmp_path / "touched").exists()


def test_folder_without_splits_holds_every_tenth_out(image_folder: Path) -> None:
    images, labels = load_images(image_folder, "train", 8)
    assert labels.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    held_out, held_out_labels = load_images(image_folder, "test", 8)
    assert held_out_labels.tolist() == [0, 0, 1, 1, 2, 2]
    file = sorted((image_folder / "bar").iterdir())[9]
    np.testing.assert_array_equal(held_out[0].numpy(), np.asarray(Image.open(file)).transpose(2, 0, 1))
    assert not any(torch.equal(image, held_out[0]) for image in images)


def test_folder_with_splits_reads_them(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "train")
    shutil.copytree(image_folder / "gap", tmp_path / "val" / "gap")
    assert len(load_images(tmp_path, "train", 8)[1]) == 60
    assert load_images(tmp_path, "test", 8)[1].tolist() == [2] * 20


def test_classes_json_orders_the_labels(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "data")
    order = [{"folder": name, "index": i, "name": name} for i, name in enumerate(("gap", "bar", "dot"))]
    (tmp_path / "data" / "classes.json").write_text(json.dumps(order[::-1]))
    images, labels = load_images(tmp_path / "data", "train", 8)
    plain, plain_labels = load_images(image_folder, "train", 8)
    assert torch.equal(images[labels == 0], plain[plain_labels == 2])


def test_labels_are_positions_unless_indices_are_asked_for(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "data")
    order = [{"folder": name, "index": i, "name": name} for i, name in ((7, "gap"), (3, "bar"), (5, "dot"))]
    (tmp_path / "data" / "classes.json").write_text(json.dumps(order))
    assert load_images(tmp_path / "data", "train", 8)[1].unique().tolist() == [0, 1, 2]
    images, labels = load_images(tmp_path / "data", "train", 8, "index")
    plain, plain_labels = load_images(image_folder, "train", 8)
    assert labels.unique().tolist() == [3, 5, 7]
    assert torch.equal(images[labels == 7], plain[plain_labels == 2])
    assert load_held_out(tmp_path / "data", 8, 6, "index")[1].tolist() == [3, 3, 5, 5, 7, 7]


@pytest.mark.parametrize("indices", [(0, 0, 1), (-1, 0, 1), (0, 1, 2**70)])
def test_indices_that_cannot_be_labels_are_refused(image_folder: Path, tmp_path: Path, indices: tuple[int]) -> None:
    shutil.copytree(image_folder, tmp_path / "data")
    order = [{"folder": name, "index": i} for i, name in zip(indices, ("gap", "bar", "dot"), strict=True)]
    (tmp_path / "data" / "classes.json").write_text(json.dumps(order))
    with pytest.raises(DataError, match=r"classes\.json must give every class an index of its own, from 0 on, got"):
        load_images(tmp_path / "data", "train", 8)


def test_folder_images_are_centre_cropped(tmp_path: Path) -> None:
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, 8:16] = 200
    (tmp_path / "only").mkdir()
    Image.fromarray(picture).save(tmp_path / "only" / "wide.png")
    images, _ = load_images(tmp_path, "train", 8)
    assert images.shape == (1, 3, 8, 8) and bool((images == 200).all())


def test_held_out_subset_covers_the_classes(image_folder: Path) -> None:
    assert load_held_out(image_folder, 8, 3)[1].unique().tolist() == [0, 1, 2]
    assert len(load_held_out(image_folder, 8, 100)[1]) == 6


def test_the_variable_names_the_data(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(image_folder))
    assert len(load_images(None, "train", 8)[1]) == 54


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(DataError, match=DATA_VARIABLE):
        load_images(None, "train", 8)
    with pytest.raises(DataError, match=f"nowhere.*{DATA_VARIABLE}"):
        load_images(tmp_path / "nowhere", "train", 8)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut"])
def test_a_damaged_pack_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz"):
        load_images(tmp_path / "bad.npz", "train", 8)


def test_a_pack_with_a_damaged_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, header=np.arange(3000) % 251)
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("header.npy").header_offset + 60
    whole = path.read_bytes()
    path.write_bytes(whole[:begin] + bytes(255 - byte for byte in whole[begin : begin + 60]) + whole[begin + 60 :])
    with pytest.raises(DataError, match=r"bad\.npz is no CIFAR-10 JPEG pack"):
        load_images(path, "train", 32)


def test_an_array_is_no_pack(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"x\.npy is no CIFAR-10 JPEG pack"):
        load_images(tmp_path / "x.npy", "train", 32)


def test_a_picture_too_large_to_read_is_named(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"0000\.png is no readable image: .*decompression bomb"):
        load_images(image_folder, "train", 8)


def test_a_folder_without_images_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar-10-batches-py"):
        load_images(tmp_path, "train", 8)
