"""Tensor names of a plan's graphs, as docs/plan-format.md lists them."""

GRAPH_NAMES = ("condition", "scale_step", "decoder")  # what drawing takes
ENCODER = "encoder"  # a graph that a plan may have beside them
# Those that a plan may have for ONNX Runtime's CUDA provider to take in place of the portable ones.
FUSED = {"scale_step": "scale_step_fused", "decoder": "decoder_fused"}
# The step cut at its sampler, which a plan may have for processors: what gives logits, and what takes the tokens drawn.
LOGITS, LATENT = CUT = ("scale_logits", "scale_latent")
CACHED = ("keys", "values")
HALVES = ("k", "v")  # the same in the fused step
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"

CLASS_TOKEN_INPUTS = ("class_token", "beta", "select_count")
_LOGITS_INPUTS = ("token_map", "adaln", "adaln_head")
_LATENT_INPUTS = ("f_hat", "phi_select", "upsample", "downsample_next", "position_next")
_STEP_INPUTS = (*_LOGITS_INPUTS, *_LATENT_INPUTS, "guidance", "top_k", "top_p", "uniform", "forced")


def past_of(half: str, block: int) -> str:
    """Name of the step's input with a block's earlier keys or values (`half` is one of CACHED)."""
    return f"past_{half}_{block:02d}"


def new_of(half: str, block: int) -> str:
    """Name of the step's output with a block's keys or values of this scale."""
    return f"new_{half}_{block:02d}"


def past_half(half: str, block: int, scale: int) -> str:
    """Name of the fused step's input with a block's keys (half k) or values (v) of an earlier scale."""
    return f"{half}_{block:02d}_{scale:02d}"


def new_half(half: str, block: int) -> str:
    """Name of the fused step's output with a block's keys or values of this scale."""
    return f"new_{half}_{block:02d}"


def scale_key(scale: int, constant: str) -> str:
    """Key of a scale's constant tensor in the weight file."""
    return f"scale.{scale:02d}.{constant}"


def graph_inputs(graph: str, depth: int, class_tokens: bool, scales: int) -> set[str]:
    """Names of the inputs a graph must have, no more and no fewer."""
    if graph == "condition":
        return {"labels"}
    if graph in ("decoder", FUSED["decoder"]):
        return {"f_hat"}
    if graph == ENCODER:
        return {"image"}
    if graph == LATENT:
        return {"tokens", *_LATENT_INPUTS}
    caches = {past_of(half, block) for half in CACHED for block in range(depth)}
    if graph == FUSED["scale_step"]:
        caches = {past_half(half, block, scale) for half in HALVES for block in range(depth)
                  for scale in range(scales - 1)}
    own = _LOGITS_INPUTS if graph == LOGITS else _STEP_INPUTS
    return {*own, *caches, *(CLASS_TOKEN_INPUTS if class_tokens else ())}


def graph_outputs(graph: str, depth: int, trace: bool) -> set[str]:
    """Names of the outputs a graph must have; it may have more."""
    if graph == "condition":
        return {"adaln", "adaln_head", "token_map"}
    if graph in ("decoder", FUSED["decoder"]):
        return {"image"}
    if graph == ENCODER:
        return {"tokens"}
    if graph == LATENT:
        return {"f_hat_next", "token_map_next"}
    caches = {new_of(half, block) for half in CACHED for block in range(depth)}
    if graph == LOGITS:
        return {"logits", *caches}
    if graph == FUSED["scale_step"]:
        caches = {new_half(half, block) for half in HALVES for block in range(depth)}
    return {"tokens", "f_hat_next", "token_map_next", *caches, *(("logits",) if trace else ())}
