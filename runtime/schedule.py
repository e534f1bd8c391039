"""Sampling and amplification settings, resolved from the plan's defaults and a user's choices to one value a scale."""

from dataclasses import dataclass
from math import isfinite

from hieramp.runtime.errors import SettingsError
from hieramp.runtime.manifest import Amplification, Manifest

Values = tuple[float, ...]


@dataclass(frozen=True)
class ScaleControls:
    """The scalars one step is given."""

    guidance: float
    top_k: int
    top_p: float
    beta: float
    select_count: int


@dataclass(frozen=True)
class Settings:
    """Every setting of a run; cfg, beta and rho have one value a scale."""

    cfg: Values
    beta: Values
    rho: Values
    top_k: int
    top_p: float

    def controls(self, scale: int, tokens: int) -> ScaleControls:
        """The scalars of a scale with that many tokens."""
        guidance = guidance_strength(self.cfg[scale], scale, len(self.cfg))
        count = select_count(self.rho[scale], tokens)
        return ScaleControls(guidance, self.top_k, self.top_p, self.beta[scale], count)


@dataclass(frozen=True)
class Overrides:
    """What a user chose instead of a plan's defaults; cfg, beta and rho hold one value, three, or one a scale."""

    cfg: Values | None = None
    beta: Values | None = None
    rho: Values | None = None
    top_k: int | None = None
    top_p: float | None = None
    amplify: bool = True


def guidance_strength(cfg: float, scale: int, scale_count: int) -> float:
    """Classifier-free guidance t = cfg·k/(K−1): none at the first scale, all of it at the last."""
    return cfg * scale / max(scale_count - 1, 1)


def select_count(rho: float, tokens: int) -> int:
    """Positions to amplify, max(1, round(ρ·l)) with halves rounded to even."""
    return max(1, round(rho * tokens))


def resolve_settings(manifest: Manifest, overrides: Overrides | None = None) -> Settings:
    """Merge overrides into the plan's defaults; a SettingsError names the setting and its value."""
    chosen, sampling, scale_count = overrides or Overrides(), manifest.sampling, manifest.model.scale_count
    return Settings(
        cfg=spread("cfg", chosen.cfg or (sampling.cfg,), scale_count),
        beta=_resolve_beta(manifest, chosen),
        rho=_resolve_rho(manifest, chosen),
        top_k=_resolve_top_k(manifest, chosen.top_k),
        top_p=_in_unit("top_p", sampling.top_p if chosen.top_p is None else chosen.top_p),
    )


def spread(name: str, values: Values, scale_count: int) -> Values:
    """Give every scale its value, from one for all, one a stage (coarse, middle, fine), or one a scale."""
    if any(not isfinite(value) for value in values):
        raise SettingsError(f"{name} must be finite, got {_show(values)}")
    if len(values) == scale_count:
        return values
    if len(values) == 1:
        return values * scale_count
    if len(values) == 3:
        return tuple(values[stage] for stage in stages(scale_count))
    raise SettingsError(f"{name} takes one value, three (coarse, middle, fine) or {scale_count} (one a scale), "
                        f"got {len(values)}: {_show(values)}")


def stages(scale_count: int) -> tuple[int, ...]:
    """Stage of every scale: 0 coarse, 1 middle, 2 fine.

    Scales 1 to K−1 fall into three groups as even as can be, the later ones larger where need be (published, of ten:
    1–3, 4–6 and 7–9). Scale 0 is coarse.
    """
    amplifiable = scale_count - 1
    return (0, *(2 - 3 * rank // amplifiable for rank in reversed(range(amplifiable))))


def _resolve_beta(manifest: Manifest, chosen: Overrides) -> Values:
    model, amplification = manifest.model, manifest.amplification
    none = (0.0,) * model.scale_count
    if not chosen.amplify:
        _refuse_beta_without_amplification(chosen)
        return none
    if chosen.beta is None:
        return amplification.beta if amplification else none
    values = spread("beta", chosen.beta, model.scale_count)
    if not any(values):
        return none
    default = _require_amplification(manifest, "beta", values).beta
    if len(chosen.beta) != model.scale_count:
        return _mask(values, default)
    for scale, beta in enumerate(values):
        if beta and scale not in model.class_token_scales:
            raise SettingsError(f"beta must be 0 at scale {scale}, which has no class token, got {beta:g}; "
                                f"scales with one are {_show(model.class_token_scales)}")
    return values


def _mask(values: Values, default: Values) -> Values:
    """Amplify only where the plan does by default."""
    if not any(default):
        raise SettingsError(f"beta {_show(values)} would amplify nothing: this plan amplifies no scale by default; "
                            "give one value a scale")
    return tuple(value if usual else 0.0 for value, usual in zip(values, default, strict=True))


def _refuse_beta_without_amplification(chosen: Overrides) -> None:
    if chosen.beta is not None and any(chosen.beta):
        raise SettingsError(f"beta {_show(chosen.beta)} contradicts --no-amplify; drop one of them")


def _resolve_rho(manifest: Manifest, chosen: Overrides) -> Values:
    amplification, scale_count = manifest.amplification, manifest.model.scale_count
    if chosen.rho is None:
        return amplification.top_ratio if amplification else (1.0,) * scale_count
    _require_amplification(manifest, "rho", chosen.rho)
    return tuple(_in_unit("rho", value) for value in spread("rho", chosen.rho, scale_count))


def _require_amplification(manifest: Manifest, name: str, values: Values) -> Amplification:
    if manifest.amplification is None or not manifest.amplification.blocks:
        raise SettingsError(f"{name} {_show(values)} has nothing to act on: plan {manifest.name!r} has no amplified "
                            "block; export one from a HierAmp checkpoint")
    return manifest.amplification


def _resolve_top_k(manifest: Manifest, chosen: int | None) -> int:
    top_k, vocab_size = manifest.sampling.top_k if chosen is None else chosen, manifest.model.vocab_size
    if not 1 <= top_k <= vocab_size:
        raise SettingsError(f"top_k must be from 1 to {vocab_size} (which keeps every token), got {top_k}")
    return top_k


def _in_unit(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise SettingsError(f"{name} must lie in (0, 1], got {value:g}")
    return value


def _show(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
