"""What lies in device memory for a batch, and which of it each graph of a plan reads and writes.

Token maps alternate between two places: a step reads one and writes the other.
"""

from dataclasses import dataclass

from hieramp.runtime.contract import CACHED, HALVES, new_half, new_of, past_half, past_of
from hieramp.runtime.gpu.memory import Arena, Bound, Spec
from hieramp.runtime.manifest import Manifest, ModelShape
from hieramp.runtime.scales import constant_shapes

Specs = dict[str, Spec]
TRACES = ("logits", "saliency")


@dataclass(frozen=True)
class Memory:
    """Constants of the scales, inputs from the host, results to the host, traces, and what stays on the device."""

    constants: Arena
    inputs: Arena
    results: Arena
    traces: Arena | None
    scratch: Arena


def of_scale(name: str, scale: int) -> str:
    """Name of a scale's own tensor."""
    return f"{name}.{scale}"


def constant_specs(model: ModelShape) -> Specs:
    """Constants of every scale; a scale without a class token has an empty one."""
    specs: Specs = {}
    for scale in range(model.scale_count):
        shapes = {"class_token": (0, model.width)} | constant_shapes(model, scale)
        specs |= {of_scale(name, scale): Spec(shape) for name, shape in shapes.items()}
    return specs


def input_specs(model: ModelShape, batch: int) -> Specs:
    """What the host writes before a batch; scalars too, so that other values need no other graph."""
    specs = {"labels": Spec((batch,), "int64")}
    for scale, tokens in enumerate(model.scale_tokens):
        own = {"uniform": Spec((batch, tokens)), "forced": Spec((batch, tokens), "int64"), "guidance": Spec((1,)),
               "top_k": Spec((1,), "int64"), "top_p": Spec((1,)), "beta": Spec((1,)),
               "select_count": Spec((1,), "int64")}
        specs |= {of_scale(name, scale): spec for name, spec in own.items()}
    return specs


def result_specs(model: ModelShape, batch: int) -> Specs:
    """What the host reads after a batch; the latents of all scales, to name the one where NaN came in."""
    tokens = {of_scale("tokens", scale): Spec((batch, count), "int64")
              for scale, count in enumerate(model.scale_tokens)}
    latents = {of_scale("f_hat", scale): Spec(_latent(model, batch)) for scale in range(model.scale_count)}
    return tokens | latents | {"image": Spec((batch, 3, model.image_side, model.image_side))}


def trace_specs(manifest: Manifest, batch: int) -> Specs:
    """What a plan with trace outputs gives beside; empty for others."""
    model, named = manifest.model, {tensor.name for tensor in manifest.graphs["scale_step"].outputs}
    blocks = len(manifest.amplification.blocks) if manifest.amplification else 0
    specs: Specs = {}
    for scale, tokens in enumerate(model.scale_tokens):
        shapes = {"logits": (2 * batch, tokens, model.vocab_size), "saliency": (blocks, 2 * batch, tokens)}
        specs |= {of_scale(name, scale): Spec(shapes[name]) for name in TRACES if name in named}
    return specs


def scratch_specs(manifest: Manifest, batch: int) -> Specs:
    """What never leaves the device: condition, token maps and caches; `nothing` is for empty tensors."""
    model, rows = manifest.model, 2 * batch
    maps = [max(model.scale_tokens[parity::2], default=1) for parity in (0, 1)]
    cache = Spec((model.token_count, rows, model.heads, model.head_width), manifest.cache_type)
    return {
        "adaln": Spec((rows, model.depth, 6, model.width)), "adaln_head": Spec((rows, 2, model.width)),
        **{f"token_map.{parity}": Spec((rows, maps[parity], model.width)) for parity in (0, 1)},
        "f_hat.zero": Spec(_latent(model, batch)), "nothing": Spec((1,)),
        **{f"{half}.{block}": cache for half in CACHED for block in range(model.depth)},
    }


def condition_tensors(model: ModelShape, memory: Memory) -> dict[str, Bound]:
    """Tensors of the condition graph."""
    scratch = memory.scratch
    return {"labels": memory.inputs["labels"], "adaln": scratch["adaln"], "adaln_head": scratch["adaln_head"],
            "token_map": _token_map(model, memory, 0, model.scale_tokens[0])}


def step_tensors(model: ModelShape, memory: Memory, scale: int) -> dict[str, Bound]:
    """Tensors of one step, of which a graph takes what it names.

    Its keys and values go right behind those of the scales before it. In the fused graph each of them has all tokens of
    a row together there, as fused attention reads them.
    """
    constants, scratch, (past, end) = memory.constants, memory.scratch, model.token_range(scale)
    following = constants[of_scale("position_next", scale)].spec.shape[0]
    tensors = {
        "token_map": _token_map(model, memory, scale, model.scale_tokens[scale]),
        "token_map_next": _token_map(model, memory, scale + 1, following),
        "f_hat": memory.results[of_scale("f_hat", scale - 1)] if scale else scratch["f_hat.zero"],
        "f_hat_next": memory.results[of_scale("f_hat", scale)],
        "adaln": scratch["adaln"], "adaln_head": scratch["adaln_head"],
        "tokens": memory.results[of_scale("tokens", scale)],
    }
    for name in ("class_token", "phi_select", "upsample", "downsample_next", "position_next"):
        tensors[name] = constants[of_scale(name, scale)]
    for name in ("uniform", "forced", "guidance", "top_k", "top_p", "beta", "select_count"):
        tensors[name] = memory.inputs[of_scale(name, scale)]
    if memory.traces:
        tensors |= {name: memory.traces[of_scale(name, scale)] for name in TRACES
                    if of_scale(name, scale) in memory.traces.tensors}
    for block in range(model.depth):
        for half, fused in zip(CACHED, HALVES, strict=True):
            cache = scratch[f"{half}.{block}"]
            # An empty past has an address of its own, since the cache's first one is that of the new keys.
            tensors[past_of(half, block)] = cache.rows(0, past) if past else _emptied(scratch["nothing"], cache)
            tensors[new_of(half, block)] = cache.rows(past, end)
            tensors |= _by_scale(model, scratch["nothing"], cache, fused, block, scale)
    return tensors


def _by_scale(
    model: ModelShape, nothing: Bound, cache: Bound, half: str, block: int, scale: int
) -> dict[str, Bound]:
    """Keys or values [R, l, C] of a block by scale, those of the scales to come empty."""
    rows, type_name, tensors = cache.spec.shape[1], cache.spec.type, {}
    for other in range(model.scale_count):
        begin, end = model.token_range(other)
        bound = cache.rows(begin, end).as_shape(rows, end - begin, model.width)
        if other == scale:
            tensors[new_half(half, block)] = bound
        if other + 1 < model.scale_count:
            empty = Bound(Spec((rows, 0, model.width), type_name), nothing.device)
            tensors[past_half(half, block, other)] = bound if other < scale else empty
    return tensors


def decoder_tensors(model: ModelShape, memory: Memory) -> dict[str, Bound]:
    """Tensors of the decoder."""
    return {"f_hat": memory.results[of_scale("f_hat", model.scale_count - 1)], "image": memory.results["image"]}


def _token_map(model: ModelShape, memory: Memory, scale: int, tokens: int) -> Bound:
    place = memory.scratch[f"token_map.{scale % 2}"]
    return place.as_shape(place.spec.shape[0], tokens, model.width)


def _emptied(place: Bound, cache: Bound) -> Bound:
    return Bound(Spec((0, *cache.spec.shape[1:]), cache.spec.type), place.device)


def _latent(model: ModelShape, batch: int) -> tuple[int, ...]:
    return (batch, model.z_channels, model.latent_side, model.latent_side)
