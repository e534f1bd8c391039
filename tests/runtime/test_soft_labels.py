"""Agreement of a teacher with the classes that pictures were drawn as."""

import io

import numpy as np
import pytest

from hieramp.runtime.soft_labels import agreement, looks_wrong, npy_bytes


def test_agreement_counts_the_pictures_whose_label_has_the_largest_logit() -> None:
    blocks = [np.array([[2, 1, 0], [0, 3, 1], [0, 3, 1]], np.float32), np.array([[5, 1, 0], [0, 1, 9]], np.float32),
              np.array([[1, 0, 9]], np.float32)]
    assert agreement(blocks, ipc=2) == 4 / 6  # labels 0 0 1 1 2 2, answers 0 1 1 0 2 2


@pytest.mark.parametrize(("share", "classes", "wrong"), [
    (0.1, 10, True), (0.19, 10, True), (0.2, 10, False), (0.5, 2, True), (0.74, 2, True), (0.75, 2, False),
    (0.001, 1000, True), (0.002, 1000, False), (0.0, 1, False),
])
def test_near_guessing_looks_wrong(share: float, classes: int, wrong: bool) -> None:
    assert looks_wrong(share, classes) is wrong


def test_the_bytes_are_a_npy_file() -> None:
    values = np.array([1.5, -2], np.float32)
    loaded = np.load(io.BytesIO(npy_bytes(values)))
    assert loaded.dtype == np.float32 and (loaded == values).all()
