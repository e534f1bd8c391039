"""Settings in the words of the reference and of a plan."""

from hieramp.runtime import Manifest, Settings
from hieramp_ref.settings import Settings as ReferenceSettings


def runtime_settings(settings: ReferenceSettings, vocab_size: int) -> Settings:
    """The reference's settings in the runtime's words, where V and 1 keep every token instead of 0."""
    top_k = min(settings.top_k or vocab_size, vocab_size)
    top_p = settings.top_p if 0 < settings.top_p < 1 else 1.0
    return Settings(cfg=settings.cfg, beta=settings.beta, rho=settings.top_ratio, top_k=top_k, top_p=top_p)


def reference_settings(manifest: Manifest) -> ReferenceSettings:
    """A plan's default settings in the reference's words."""
    sampling, amplification, K = manifest.sampling, manifest.amplification, manifest.model.scale_count
    return ReferenceSettings(
        cfg=(sampling.cfg,) * K, top_k=sampling.top_k, top_p=sampling.top_p,
        class_tokens=bool(manifest.model.class_token_scales),
        blocks=amplification.blocks if amplification else (),
        beta=amplification.beta if amplification else (0.0,) * K,
        top_ratio=amplification.top_ratio if amplification else (1.0,) * K,
    )
