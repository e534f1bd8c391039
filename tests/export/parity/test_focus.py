"""Object focus: by hand, and on pictures whose salient place is known."""

import numpy as np
import pytest

from hieramp.export.parity.focus import concentrated_share, picture_focus, spectral_residual

RNG = np.random.default_rng(6)


def test_share_of_the_largest() -> None:
    maps = np.array([[4.0, 3, 2, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert concentrated_share(maps, 0.5) == pytest.approx([0.7, 0.5, 0.5])
    assert concentrated_share(maps, 0.01) == pytest.approx([0.4, 0.25, 0.01])


def test_one_object_is_found_and_counts_as_focus() -> None:
    y, x = np.mgrid[:32, :32]
    picture = 0.5 + 0.2 * np.sin(0.9 * x + 0.4 * y)  # a regular pattern, which is no object
    picture[8:12, 18:22] = 1
    saliency = spectral_residual(picture[None])[0]
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 6 <= row < 14 and 16 <= column < 24
    noise = RNG.random((32, 32))  # everywhere the same
    focus = picture_focus(np.stack([picture, noise])[:, None].repeat(3, 1).astype(np.float32))
    assert focus[0] > focus[1] + 0.1
    assert (focus >= 0.25).all() and (focus <= 1).all()


def test_pictures_do_not_touch_each_other() -> None:
    pictures = RNG.random((3, 3, 16, 16)).astype(np.float32)
    together = picture_focus(pictures)
    assert together == pytest.approx([picture_focus(picture[None])[0] for picture in pictures])
