"""The model card's figures as Markdown."""

from collections.abc import Sequence

from card.held_out import CrossEntropy, Tokenizer
from card.judge import Accuracy
from card.recognition import Recognition
from recording.markdown import percent, table
from recording.record import show_spread

LOSSY = ("The data is a pack of JPEG images: its pixels are lossy, so accuracies compare with each other and not with "
         "published CIFAR-10 figures.")


def recognition_section(judged: Accuracy, drawn: Sequence[Recognition], classes: Sequence[str]) -> str:
    """Shares recognised, a class a row, real images first."""
    header = ["class", "real test images", *(found.variant for found in drawn)]
    rows = [[name, percent(judged.share_by_class[i]), *(percent(found.share_by_class[i]) for found in drawn)]
            for i, name in enumerate(classes)]
    total = ["all", percent(judged.share), *(percent(found.share) for found in drawn)]
    counts = ["images", f"{judged.images:,}", *(f"{found.images:,}" for found in drawn)]
    speed = ["images a second", "", *(show_spread(found.images_per_second) for found in drawn)]
    return table(header, [*rows, total, counts, speed])


def confusion_section(found: Recognition, classes: Sequence[str]) -> str:
    """Intended class by row, recognised class by column."""
    rows = [[name, *map(str, counts)] for name, counts in zip(classes, found.confusion, strict=True)]
    return table([f"{found.variant}: intended ↓ recognised →", *classes], rows)


def tokenizer_section(figures: Tokenizer) -> str:
    """Reconstruction and codebook."""
    return table(["held-out images", "MSE", "PSNR, dB", "codebook entries in use", "perplexity"], [[
        f"{figures.images:,}", f"{figures.mse:.5f}", f"{figures.psnr_db:.2f}", percent(figures.codebook_use),
        f"{figures.codebook_perplexity:.0f}"]])


def cross_entropy_section(figures: CrossEntropy, patch_sides: Sequence[int]) -> str:
    """Nats a token by scale."""
    rows = [[str(k), f"{side}×{side}", f"{nats:.3f}"]
            for k, (side, nats) in enumerate(zip(patch_sides, figures.nats_by_scale, strict=True))]
    return table(["scale", "tokens", "nats a token"], [*rows, ["all", f"{sum(s * s for s in patch_sides)}",
                                                               f"{figures.nats:.3f}"]])
