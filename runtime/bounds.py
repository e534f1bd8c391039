"""The most that a file from elsewhere may ask for; the table of docs/security.md.

Published models stay far below: VAR-d36 at 512 pixels has depth 36, width 2304, 2240 tokens and 4096 codebook entries.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hieramp.runtime.manifest import ModelShape

MANIFEST_BYTES = 16 << 20
SIDECAR_BYTES = 1 << 20
RECORD_BYTES = 16 << 20  # dataset.json and classes.json
CLASS_FILE_BYTES = 1 << 20
MEMORY_BYTES = 16 << 20  # what is remembered of verified files
TEXT_LENGTH = 4096  # characters of any text
NAME_LENGTH = 200  # characters of a key or class name, bytes of a file name
MESSAGE_LENGTH = 1000
DIFFERENCES = 8  # phrases about a folder that holds another dataset
NPY_BYTES = 1 << 30  # the soft labels of a batch
TOKENS_BYTES = 16 << 20  # the tokens of an edit, packed and unpacked
PNG_BYTES = 256 << 20  # a stored picture, read back for the contact sheet

SCALES, LATENT_SIDE = 64, 256
MODEL_SIZES = {"vocab_size": 1 << 20, "z_channels": 4096, "image_side": 8192, "depth": 128, "width": 16384,
               "heads": 16384, "num_classes": 100_000, "phi_count": 1024}
TOKENS = 1 << 16
PICTURE_BYTES = 16 << 30


def picture_bytes(model: "ModelShape") -> int:
    """Bytes that the arrays of a single picture take in float32: caches, conditioning, logits, latents and pixels."""
    cache = 2 * model.token_count * model.depth * model.width
    conditioning = (6 * model.depth + 2) * model.width
    logits = max(model.scale_tokens) * (model.vocab_size + model.width)
    latents = model.scale_count * model.z_channels * model.latent_side**2
    return 4 * (2 * (cache + conditioning + logits) + latents + 3 * model.image_side**2)


def size_problems(model: "ModelShape") -> Iterator[str]:
    """What a model has more of than this runtime makes room for."""
    for name, most in MODEL_SIZES.items():
        if getattr(model, name) > most:
            yield f"model.{name} must be at most {most}, got {getattr(model, name)}"
    if model.scale_count > SCALES:
        yield f"model.patch_sides must be at most {SCALES} scales, got {model.scale_count}"
    if model.latent_side > LATENT_SIDE:
        yield f"model.patch_sides must be at most {LATENT_SIDE}, got {model.latent_side}"
    if model.token_count > TOKENS:
        yield f"model.patch_sides must make at most {TOKENS} tokens, got {model.token_count}"
    if (needed := picture_bytes(model)) > PICTURE_BYTES:
        yield f"a picture of this model must need at most {PICTURE_BYTES >> 30} GiB, got {needed >> 30}"
