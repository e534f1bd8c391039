"""Pixels of a generated picture: rounding, resizing and PNG."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hieramp.runtime.durable import replacing


def to_uint8(image_3SS: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round [0, 1] to the nearest of 256 levels, halves up, and move the channels last."""
    levels_3SS = image_3SS * 255
    levels_3SS += 0.5
    np.clip(levels_3SS, 0, 255.5, out=levels_3SS)  # what is cut off here is positive, so that the cast rounds down
    pixels_SS3 = np.empty((*image_3SS.shape[1:], len(image_3SS)), np.uint8)
    for channel, levels_SS in enumerate(levels_3SS):
        pixels_SS3[..., channel] = levels_SS
    return pixels_SS3


def to_pixels(image_3SS: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Pixels [side, side, 3], resized with Lanczos where the image has another side."""
    pixels_SS3 = to_uint8(image_3SS)
    if len(pixels_SS3) == side:
        return pixels_SS3
    return np.array(Image.fromarray(pixels_SS3).resize((side, side), Image.Resampling.LANCZOS))


def png_bytes(picture: Image.Image) -> bytes:
    """The bytes of a PNG file of the picture."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears under its name only once it is complete."""
    with replacing(path) as stream:
        stream.write(png_bytes(picture))
