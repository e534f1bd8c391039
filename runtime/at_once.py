"""How much of a batch a processor draws at once, for the sake of memory and speed."""

from hieramp.runtime.binding import ELEMENT_BYTES
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.lanes import lane_count
from hieramp.runtime.manifest import Manifest, ModelShape
from hieramp.runtime.providers import PROVIDERS

_PIXELS_AT_ONCE = 256 * 256
_CACHE_BYTES = 1 << 29
_LAST_SCALE_ROWS = 4096


def decoder_batch(image_side: int) -> int:
    """Images to decode at once: as many as have 256 × 256 pixels together.

    Feature maps of a decoder take several hundred megabytes for such an image, and more of them are no faster a pixel.
    """
    return max(1, _PIXELS_AT_ONCE // image_side**2)


def images_at_once(model: ModelShape, cache_type: str) -> int:
    """Images to draw together: as many as have half a gigabyte of keys and values, and 4,096 tokens at the last scale.

    Both halves of guidance count. So many keep a processor busy, and more were no faster (docs/speed-changes.md).
    """
    image_bytes = 2 * 2 * model.token_count * model.depth * model.width * ELEMENT_BYTES[cache_type]
    return max(1, min(_CACHE_BYTES // image_bytes, _LAST_SCALE_ROWS // (2 * model.scale_tokens[-1])))


def lanes_for(manifest: Manifest, provider: str, threads: int | None, batch: int) -> int:
    """Lanes that suit batches of that size; one where a provider does not compute on the processor.

    A provider that there is not is refused where it is opened, not here. `threads` is None for the cores.
    """
    if provider in PROVIDERS and PROVIDERS[provider].device != "cpu":
        return 1
    return lane_count(threads or usable_cores(), batch, images_at_once(manifest.model, manifest.cache_type))
