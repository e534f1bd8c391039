"""What drawing asks of a back end: whole batches, and of one that hands out steps condition, step and decode too."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.lanes import Lanes
from hieramp.runtime.schedule import ScaleControls

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
CacheT = TypeVar("CacheT")


@dataclass(frozen=True)
class Conditioning:
    """What depends on the classes alone: AdaLN vectors of the blocks and the head, and the first token map."""

    adaln_Rd6C: FloatArray
    adaln_head_R2C: FloatArray
    token_map_RlC: FloatArray


@dataclass(frozen=True)
class StepInputs:
    """One coarse-to-fine step; `forced_Bl` holds tokens, or −1 where one is to be sampled."""

    token_map_RlC: FloatArray
    f_hat_BzPP: FloatArray
    uniform_Bl: FloatArray
    forced_Bl: IntArray
    controls: ScaleControls


@dataclass(frozen=True)
class StepOutputs:
    """The tokens drawn (−1 from logits that are not finite) and what the next step starts from.

    The last two only when traced.
    """

    tokens_Bl: IntArray
    f_hat_BzPP: FloatArray
    token_map_RlC: FloatArray
    logits_RlV: FloatArray | None = None
    saliency_ARl: FloatArray | None = None


@dataclass(frozen=True)
class Request:
    """One batch to draw: `forced_BL` holds tokens, or −1 where one is to be sampled; `controls` has one a scale."""

    labels_B: IntArray
    uniforms_BL: FloatArray
    forced_BL: IntArray
    controls: tuple[ScaleControls, ...]
    trace: bool = False


@dataclass(frozen=True)
class Drawing:
    """A batch: tokens of every scale, latent, images and, when traced, logits and saliency of every scale.

    A token is −1 where its logits were not finite. `finite` says after every scale which latents are finite.
    """

    tokens: tuple[IntArray, ...]
    f_hat_BzPP: FloatArray
    image_B3SS: FloatArray
    finite: tuple[BoolArray, ...] = ()
    logits: tuple[FloatArray, ...] = ()
    saliency: tuple[FloatArray, ...] = ()


class Backend(Protocol[CacheT]):
    """Draws whole batches of a plan's pictures, so that nothing has to leave a device on the way."""

    def new_cache(self, batch: int) -> CacheT:
        """Memory for `batch` images, to be used for one batch after another; the same may be handed out again."""

    def draw(self, cache: CacheT, request: Request) -> Drawing:
        """Draw one batch of the size that the cache is for."""

    def __enter__(self) -> "Backend[CacheT]": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None: ...


@runtime_checkable
class StepBackend(Backend[Lanes[CacheT]], Protocol[CacheT]):
    """A back end that hands out every step. It keeps no state between calls: keys and values live in the cache.

    Whole batches are drawn with several caches where parts of them are drawn beside one another.
    """

    @property
    def images_at_once(self) -> int:
        """How many images of a batch it draws together with one cache, for the sake of memory and speed."""

    def step_cache(self, batch: int) -> CacheT:
        """Memory for steps of that many images at once."""

    def condition(self, labels_B: IntArray) -> Conditioning:
        """Run the condition graph."""

    def step(self, cache: CacheT, scale: int, conditioning: Conditioning, inputs: StepInputs,
             trace: bool = False) -> StepOutputs:
        """Run one step, which reads the scales before it from the cache and adds its own."""

    def decode(self, f_hat_BzPP: FloatArray) -> FloatArray:
        """Images [B, 3, S, S] in [0, 1]."""
