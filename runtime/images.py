"""Pixels of a generated picture: rounding, resizing and PNG."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hieramp.runtime.durable import replacing


def to_uint8(image_3SS: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round [0, 1] to the nearest of 256 levels, halves up, and move the channels last."""
    levels = np.floor(np.clip(image_3SS, 0, 1) * 255 + 0.5)
    return np.ascontiguousarray(levels.transpose(1, 2, 0), np.uint8)


def to_picture(image_3SS: NDArray[np.float32], side: int) -> Image.Image:
    """An RGB picture of that side, resized with Lanczos where the image has another."""
    picture = Image.fromarray(to_uint8(image_3SS))
    return picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def png_bytes(picture: Image.Image) -> bytes:
    """The bytes of a PNG file of the picture."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears under its name only once it is complete."""
    with replacing(path) as stream:
        stream.write(png_bytes(picture))
