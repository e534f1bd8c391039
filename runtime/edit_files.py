"""What an edit is read from: a picture or a file of tokens, and a picture that is its mask."""

import io
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hieramp.runtime.backend import BoolArray, FloatArray, IntArray
from hieramp.runtime.bounds import MODEL_SIZES, TOKENS_BYTES
from hieramp.runtime.edit import Edit
from hieramp.runtime.encoder import check_encoder, encode
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.json_file import read_limited
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan

TOKENS_SUFFIX = ".npz"
_WHITE = 128
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow has others, one of which starts Ghostscript


def read_edit(plan: Plan, source: Path, mask: Path | None = None, keep_scales: int = 0,
              threads: int | None = None) -> Edit:
    """An edit of a picture, or of the tokens in an .npz file; the mask is white where the picture is drawn anew.

    A picture needs a plan with an encoder. Raises a HierampError that names the file at fault.
    """
    if source.suffix == TOKENS_SUFFIX:
        return Edit(read_tokens(source, plan.manifest.model), keep_scales, _read_mask(mask, None))
    check_encoder(plan)
    picture = _open(source)
    if picture.width != picture.height:
        raise SettingsError(f"{source} is {_size(picture)} pixels; crop it to a square")
    mask_SS = _read_mask(mask, picture)
    return Edit(picture_tokens(plan, picture, threads), keep_scales, mask_SS)


def picture_tokens(plan: Plan, picture: Image.Image, threads: int | None = None) -> IntArray:
    """Tokens [L] of a square picture, resized with Lanczos to the model's side; needs a plan with an encoder."""
    side = plan.manifest.model.image_side
    rgb = picture.convert("RGB")
    resized = rgb if rgb.size == (side, side) else rgb.resize((side, side), Image.Resampling.LANCZOS)
    image_3SS: FloatArray = np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
    tokens_L: IntArray = encode(plan, np.ascontiguousarray(image_3SS)[None], threads)[0]
    return tokens_L


def read_tokens(path: Path, model: ModelShape) -> IntArray:
    """The tokens [L] that `tokens_npz` wrote; a SettingsError names what does not fit the model."""
    scales = _arrays(path)
    if len(scales) != model.scale_count:
        raise SettingsError(f"{path} has tokens of {len(scales)} scales, and the model has {model.scale_count} scales")
    for scale, side in enumerate(model.patch_sides):
        found = scales.get(_key(scale))
        if found is None or found.shape != (side, side) or found.dtype.kind not in "iu":
            got = "no such array" if found is None else f"{found.dtype} {list(found.shape)}"
            raise SettingsError(f"{path}: {_key(scale)} must be whole numbers [{side}, {side}], got {got}")
    return np.concatenate([scales[_key(k)].ravel() for k in range(model.scale_count)]).astype(np.int64)


def tokens_npz(tokens_L: IntArray, patch_sides: tuple[int, ...]) -> bytes:
    """The bytes of an .npz file with the tokens of a picture, `scale_00` [p, p] and so on."""
    ends = np.cumsum([side * side for side in patch_sides])[:-1]
    parts = zip(np.split(tokens_L.astype(np.int32), ends), patch_sides, strict=True)
    stream = io.BytesIO()
    arrays: dict[str, Any] = {_key(scale): part.reshape(side, side) for scale, (part, side) in enumerate(parts)}
    np.savez(stream, **arrays)
    return stream.getvalue()


def _key(scale: int) -> str:
    return f"scale_{scale:02d}"


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, none larger than its file says and all together within the limit."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_limited(path, TOKENS_BYTES))) as archive:
            if sum(member.file_size for member in archive.infolist()) > TOKENS_BYTES:
                raise ValueError(f"it unpacks to more than {TOKENS_BYTES} bytes")
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except OSError as error:
        raise SettingsError(f"cannot read the tokens {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, EOFError, RuntimeError, NotImplementedError, zlib.error,
            zipfile.BadZipFile) as error:  # the last four are of archives: encrypted, of a method unknown, damaged
        raise SettingsError(f"{path} is no .npz file of tokens: {error}") from None


def _array(npy: bytes) -> NDArray[Any]:
    """The array of a .npy file (format 1.0); ValueError where its header promises other bytes than there are."""
    stream = io.BytesIO(npy)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("its arrays are of an unknown format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or prod(shape) * dtype.itemsize != len(npy) - stream.tell():
        raise ValueError("its arrays do not have the bytes that they claim")
    return np.frombuffer(npy, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def _read_mask(path: Path | None, picture: Image.Image | None) -> BoolArray | None:
    """True where the mask is white; it must have the size of the picture, or be a square beside tokens."""
    if path is None:
        return None
    mask = _open(path)
    if picture is not None and mask.size != picture.size:
        raise SettingsError(f"the mask {path} is {_size(mask)} pixels and the picture {_size(picture)}; they must have "
                            "one size")
    if mask.width != mask.height:
        raise SettingsError(f"the mask {path} is {_size(mask)} pixels; it must be a square")
    return np.asarray(mask.convert("L")) >= _WHITE


def _open(path: Path) -> Image.Image:
    """A picture file, turned upright where its metadata say so."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if max(picture.size) > MODEL_SIZES["image_side"]:
                raise ValueError(f"it has {_size(picture)} pixels, and {MODEL_SIZES['image_side']} a side are the most")
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow's errors share no base but Exception
        raise SettingsError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from None


def _size(picture: Image.Image) -> str:
    return f"{picture.width}×{picture.height}"
