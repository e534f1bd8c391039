"""How images are drawn: guidance, sampling and amplification, each resolved to one value a scale."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from hieramp_ref.amplification import ScaleAmplification, select_count
from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec

DEFAULT_BETA = 5.0
DEFAULT_TOP_RATIO = 0.5


@dataclass(frozen=True)
class Settings:
    """Resolved generation settings; `beta`, `top_ratio` and `cfg` hold one value a scale.

    `blocks` are the amplified block indices. `class_tokens` False strips the class tokens, as plain VAR.
    """

    cfg: tuple[float, ...]
    top_k: int
    top_p: float
    class_tokens: bool
    blocks: tuple[int, ...]
    beta: tuple[float, ...]
    top_ratio: tuple[float, ...]

    def amplification(self, spec: ModelSpec, scale: int) -> dict[int, ScaleAmplification]:
        """What each amplified block does at a scale; empty where beta is 0."""
        if not self.class_tokens or self.beta[scale] == 0:
            return {}
        count = select_count(self.top_ratio[scale], spec.scale_tokens[scale])
        return {block: ScaleAmplification(self.beta[scale], count) for block in self.blocks}


def default_settings(spec: ModelSpec) -> Settings:
    """The published defaults: cfg 4, top-k 900, top-p 0.95, beta 5 and rho 0.5 at every class-token scale but 0."""
    return settings_from_dict(spec, {"amplify": bool(spec.var.class_token_scales)})


def settings_from_json(spec: ModelSpec, path: Path) -> Settings:
    """Read a settings file in the words of the golden traces."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no settings file: {error}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path} is no settings file: it holds a {type(values).__name__}, expected an object")
    return settings_from_dict(spec, values)


def settings_from_dict(spec: ModelSpec, values: dict[str, object]) -> Settings:
    """Resolve settings: cfg, top_k, top_p, strip_cls, amplify, layers, scales, beta, top_ratio; others are ignored.

    Beta, top_ratio and cfg are one value, three (coarse, middle, fine) or one a scale.
    """
    K = spec.scale_count
    amplify = bool(values.get("amplify", False))
    if amplify and not spec.var.class_token_scales:
        raise SpecError("amplification needs class tokens and this model has none: use a HierAmp checkpoint, "
                        "or leave 'amplify' out")
    default_scales = [k for k in spec.var.class_token_scales if k > 0]
    scales = set(_integers("scales", values.get("scales", default_scales), spec.var.class_token_scales))
    beta = per_scale("beta", values.get("beta", DEFAULT_BETA), K)
    blocks = _integers("layers", values.get("layers", [max(spec.var.depth - 2, 0)]), range(spec.var.depth))
    return Settings(
        cfg=per_scale("cfg", values.get("cfg", 4.0), K),
        top_k=int(_number("top_k", values.get("top_k", 900))),
        top_p=_number("top_p", values.get("top_p", 0.95)),
        class_tokens=bool(spec.var.class_token_scales) and not values.get("strip_cls", False),
        blocks=blocks,
        beta=tuple(b if amplify and k in scales else 0.0 for k, b in enumerate(beta)),
        top_ratio=per_scale("top_ratio", values.get("top_ratio", DEFAULT_TOP_RATIO), K),
    )


def per_scale(name: str, value: object, scale_count: int) -> tuple[float, ...]:
    """One value, three (coarse, middle, fine) or K, as K values.

    Scales 1..K-1 fall into three groups as even as can be, the later ones larger where need be; scale 0 is coarse.
    """
    values = [_number(name, v) for v in (value if isinstance(value, (list, tuple)) else [value])]
    if len(values) == 1:
        return tuple(values * scale_count)
    if len(values) == scale_count:
        return tuple(values)
    if len(values) == 3:
        finest = scale_count - 1
        return tuple(values[0] if k == 0 else values[2 - (finest - k) * 3 // finest] for k in range(scale_count))
    raise SpecError(f"{name} takes 1, 3 or {scale_count} values, got {len(values)}: {values}")


def _number(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise SpecError(f"{name} must be a number, got {value!r}")
    return float(value)


def _integers(name: str, value: object, allowed: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{name} must be a list of numbers, got {value!r}")
    values = tuple(int(_number(name, v)) for v in value)
    beyond = [v for v in values if v not in allowed]
    if beyond:
        raise SpecError(f"{name} must be among {list(allowed)}, got {beyond}")
    return values
