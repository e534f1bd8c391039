"""What a manifest must hold beyond the types of its fields: values, sizes, and that its parts fit one another."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from hieramp.runtime.bounds import NAME_LENGTH, size_problems
from hieramp.runtime.contract import CUT, ENCODER, FUSED, GRAPH_NAMES, WEIGHTS, graph_inputs, graph_outputs
from hieramp.runtime.quantization import EIGHT_BIT_PRECISIONS, quantization_problems

if TYPE_CHECKING:
    from hieramp.runtime.manifest import Amplification, ClassList, Manifest, ModelShape, Sampling

PRECISIONS = ("fp32", "fp16", "bf16", *EIGHT_BIT_PRECISIONS)
CACHE_TYPES = ("float32", "float16", "bfloat16")
CLASS_SCHEMES = ("imagenet", "cifar10", "names")


def manifest_problems(manifest: "Manifest") -> Iterator[str]:
    """What is wrong with it, a phrase each, the field first."""
    if not is_plain_name(manifest.name):
        yield f"name must be usable as a file name, got {manifest.name!r}"
    if manifest.precision not in PRECISIONS:
        yield f"precision must be one of {', '.join(PRECISIONS)}, got {manifest.precision!r}"
    if manifest.cache_type not in CACHE_TYPES:
        yield f"cache_type must be one of {', '.join(CACHE_TYPES)}, got {manifest.cache_type!r}"
    yield from quantization_problems(manifest.precision, manifest.cache_type, manifest.quantization)
    yield from _model_problems(manifest.model)
    yield from size_problems(manifest.model)
    yield from _amplification_problems(manifest.amplification, manifest.model)
    yield from _sampling_problems(manifest.sampling, manifest.model)
    yield from _class_problems(manifest.classes, manifest.model)
    yield from _graph_problems(manifest)
    yield from _member_problems(manifest)


def _model_problems(model: "ModelShape") -> Iterator[str]:
    sides, tokens = model.patch_sides, model.class_token_scales
    if not sides or sides[0] < 1 or any(a >= b for a, b in pairwise(sides)):
        yield f"model.patch_sides must grow from scale to scale, got {list(sides)}"
    sizes = ("vocab_size", "z_channels", "image_side", "depth", "width", "heads", "num_classes", "phi_count")
    for name in sizes:
        if getattr(model, name) < 1:
            yield f"model.{name} must be at least 1, got {getattr(model, name)}"
    if model.width % model.heads:
        yield f"model.width must be a multiple of model.heads, got {model.width} and {model.heads}"
    if model.image_side % model.latent_side:
        yield f"model.image_side must be a multiple of the last patch side {sides[-1]}, got {model.image_side}"
    if any(a >= b for a, b in pairwise(tokens)) or any(not 0 <= k < len(sides) for k in tokens):
        yield f"model.class_token_scales must be rising scales from 0 to {len(sides) - 1}, got {list(tokens)}"


def _amplification_problems(amplification: "Amplification | None", model: "ModelShape") -> Iterator[str]:
    if amplification is None:
        return
    for name, values in (("beta", amplification.beta), ("top_ratio", amplification.top_ratio)):
        if len(values) != model.scale_count:
            yield f"amplification.{name} must have {model.scale_count} values, one a scale, got {len(values)}"
    if any(not 0 <= block < model.depth for block in amplification.blocks):
        yield f"amplification.blocks must lie in 0 to {model.depth - 1}, got {list(amplification.blocks)}"
    if any(not 0 < ratio <= 1 for ratio in amplification.top_ratio):
        yield f"amplification.top_ratio must lie in (0, 1], got {list(amplification.top_ratio)}"
    for scale, beta in enumerate(amplification.beta):
        if beta != 0 and scale not in model.class_token_scales:
            yield f"amplification.beta[{scale}] must be 0 as scale {scale} has no class token, got {beta:g}"


def _sampling_problems(sampling: "Sampling", model: "ModelShape") -> Iterator[str]:
    if not 1 <= sampling.top_k <= model.vocab_size:
        yield f"sampling.top_k must be from 1 to {model.vocab_size}, got {sampling.top_k}"
    if not 0 < sampling.top_p <= 1:
        yield f"sampling.top_p must lie in (0, 1], got {sampling.top_p:g}"


def _class_problems(classes: "ClassList", model: "ModelShape") -> Iterator[str]:
    if classes.scheme not in CLASS_SCHEMES:
        yield f"classes.scheme must be one of {', '.join(CLASS_SCHEMES)}, got {classes.scheme!r}"
    if any(len(name) > NAME_LENGTH for name in classes.names):
        yield f"classes.names must have at most {NAME_LENGTH} characters each"
    named = 1000 if classes.scheme == "imagenet" else len(classes.names)
    if named != model.num_classes:
        yield f"classes names {named} classes where model.num_classes is {model.num_classes}"


def _graph_problems(manifest: "Manifest") -> Iterator[str]:
    depth, class_tokens = manifest.model.depth, bool(manifest.model.class_token_scales)
    others = (ENCODER, *CUT, *FUSED.values())
    if set(manifest.graphs) - set(others) != set(GRAPH_NAMES):
        yield (f"graphs must be {', '.join(GRAPH_NAMES)} and perhaps {', '.join(others)}, "
               f"got {', '.join(manifest.graphs) or 'none'}")
    if len(cut := set(CUT) & set(manifest.graphs)) == 1:
        yield f"graphs must have both of {' and '.join(CUT)} or neither, got {cut.pop()} alone"
    for name, graph in manifest.graphs.items():
        inputs, outputs = {t.name for t in graph.inputs}, {t.name for t in graph.outputs}
        wanted = graph_inputs(name, depth, class_tokens, manifest.model.scale_count)
        if missing := wanted - inputs | graph_outputs(name, depth, manifest.trace_outputs) - outputs:
            yield f"graphs.{name} lacks {', '.join(sorted(missing))}"
        if unknown := inputs - wanted:
            yield f"graphs.{name} has inputs this runtime does not know: {', '.join(sorted(unknown))}"


def _member_problems(manifest: "Manifest") -> Iterator[str]:
    for name in manifest.members:
        if not is_plain_name(name):
            yield f"members must be file names inside the plan folder, got {name!r}"
    static = manifest.static_scales.files if manifest.static_scales else ()
    for name in (WEIGHTS, *(graph.file for graph in manifest.graphs.values()), *static):
        if name not in manifest.members:
            yield f"members must list {name!r}"


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file right inside its folder, on any system."""
    return (name not in ("", ".", "..") and not set(name) & set("/\\:\0")
            and len(name.encode(errors="replace")) <= NAME_LENGTH)
