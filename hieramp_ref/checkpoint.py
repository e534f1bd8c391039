"""Checkpoints in the published layouts: plain VAR, VQVAE, the HierAmp trainer's, and safetensors of any of them.

Nothing is unpickled but tensors and plain containers (`weights_only=True`).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hieramp_ref.errors import CheckpointError
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

_Model = TypeVar("_Model", bound=nn.Module)
_CLASS_TOKEN = re.compile(r"cls_tokens\.\d+")
# Buffers of the published modules that are derived from the configuration or only used in training.
_DERIVED = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")
# Where trainers put the state dict of a model, outermost first; the other model's last, so that it is recognised.
_NESTING = {
    "var.": ("trainer", "var_wo_ddp", "state_dict", "model", "vae_local"),
    "vae.": ("trainer", "vae_local", "state_dict", "model", "var_wo_ddp"),
}


def read_state(path: Path, prefix: str) -> dict[str, Tensor]:
    """The weights of one model in a file; `prefix` (`var.` or `vae.`) picks it where the file holds both."""
    state = _unnest(_read(path), _NESTING[prefix])
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) and not k.endswith(_DERIVED)}
    prefixed = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not (prefixed or tensors):
        raise CheckpointError(f"{path} holds no weights: expected a state dict or a trainer's checkpoint")
    return prefixed or {k: v for k, v in tensors.items() if not k.startswith(("var.", "vae.", "scale."))}


def load_vqvae(path: Path, spec: ModelSpec) -> Vqvae:
    """A VQVAE in float32, ready to run."""
    vqvae = Vqvae(spec.vqvae)
    return _filled(vqvae, read_state(path, "vae."), path)


def load_var(path: Path, spec: ModelSpec) -> Var:
    """A VAR in float32. The file decides about class tokens: without them amplification is unavailable.

    The model's `spec.var.class_token_scales` says which scales carry one.
    """
    state = read_state(path, "var.")
    scales = tuple(sorted(int(k.removeprefix("cls_tokens.")) for k in state if _CLASS_TOKEN.fullmatch(k)))
    if scales and scales[-1] >= spec.scale_count:
        raise CheckpointError(f"{path} has class tokens at scales {', '.join(map(str, scales))}, but the model has "
                              f"scales 0..{spec.scale_count - 1}. Likely cause: other patch sides")
    if not scales:
        state = {k: v for k, v in state.items() if not k.startswith("class_head.")}
    return _filled(Var(with_class_tokens(spec, scales)), state, path)


def with_class_tokens(spec: ModelSpec, scales: tuple[int, ...]) -> ModelSpec:
    """The same model carrying class tokens at these scales."""
    return replace(spec, var=replace(spec.var, class_token_scales=scales))


def without_class_tokens(var: Var) -> Var:
    """The same transformer as a plain VAR."""
    state = {k: v for k, v in var.state_dict().items() if not k.startswith(("cls_tokens.", "class_head."))}
    plain = Var(with_class_tokens(var.spec, ()))
    plain.load_state_dict(state)
    return plain.eval().requires_grad_(False)


def save_weights(
    path: Path, *, vqvae: Vqvae | None = None, var: Var | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write one safetensors file with `vae.` and `var.` keys, replacing an older one in one step."""
    state: dict[str, Tensor] = {}
    for prefix, model in (("vae.", vqvae), ("var.", var)):
        if model is not None:
            state |= {prefix + k: v.detach().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(state, temporary)
    temporary.replace(path)


def _read(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {_first_line(error)}") from error
    except Exception as error:  # the unpickler raises its own types, some of them private
        raise CheckpointError(f"{path} cannot be read as weights only: it is no PyTorch file, or holds more than "
                              "tensors and plain containers") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a state dict")
    return state


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unnest(state: dict[str, object], nesting: tuple[str, ...]) -> dict[str, object]:
    for key in nesting:
        inner = state.get(key)
        if isinstance(inner, dict):
            state = inner
    return state


def _filled(model: _Model, state: dict[str, Tensor], path: Path) -> _Model:
    problem = mismatch(model, state)
    if problem:
        raise CheckpointError(f"{path} does not fit the model: {problem}")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def mismatch(model: nn.Module, state: dict[str, Tensor]) -> str | None:
    """What does not fit, in one line with the likely cause, or None."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    wrong = [f"{k} is {list(state[k].shape)}, expected {list(expected[k].shape)}"
             for k in expected if k in state and state[k].shape != expected[k].shape]
    parts = [f"{len(keys)} {what} ({_some(keys)})"
             for what, keys in (("missing", missing), ("unexpected", unexpected), ("of wrong shape", wrong)) if keys]
    return "; ".join(parts) + _likely_cause(expected, state) if parts else None


def _some(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", …" if len(keys) > count else "")


def _likely_cause(expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    has, wants = _depth(state), _depth(expected)
    if has != wants and wants and has:
        return f". Likely cause: the checkpoint has depth {has}, the model depth {wants}"
    if wants and not has:
        return ". Likely cause: this is no VAR checkpoint (a VQVAE?)"
    if any(k.startswith("blocks.") for k in state) and "encoder.conv_in.weight" in expected:
        return ". Likely cause: this is a VAR checkpoint, not a VQVAE"
    for key, what in (("word_embed.weight", "another width or z_channels"),
                      ("class_emb.weight", "another number of classes"), ("pos_1LC", "other patch sides"),
                      ("quantize.embedding.weight", "another codebook")):
        if key in expected and key in state and expected[key].shape != state[key].shape:
            return f". Likely cause: {what}"
    if ("shared_ada_lin.1.weight" in expected) != ("shared_ada_lin.1.weight" in state):
        return ". Likely cause: one shares AdaLN over the blocks and the other does not (shared_adaln)"
    return ""


def _depth(state: dict[str, Tensor]) -> int:
    return len({k.split(".")[1] for k in state if k.startswith("blocks.")})
