"""Figures of a model on images that it was not trained on: reconstruction, codebook use, token cross-entropy."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hieramp_ref.training.pictures import to_unit_range
from hieramp_ref.training.var import mean_over_tokens, scale_losses
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

CHUNK = 100


@dataclass(frozen=True)
class Tokenizer:
    """Error of decoded pictures with pixels in [0, 1], and how the codebook is used.

    Use is the share of entries that occur; perplexity is how many would carry as much information, used evenly.
    """

    images: int
    mse: float
    psnr_db: float
    codebook_use: float
    codebook_perplexity: float


@dataclass(frozen=True)
class CrossEntropy:
    """Nats a token with the right label, over all tokens and a scale."""

    images: int
    nats: float
    nats_by_scale: tuple[float, ...]


def tokenizer_figures(vqvae: Vqvae, images: Tensor) -> tuple[Tokenizer, Tensor]:
    """The figures on images uint8 [N, 3, S, S], and the tokens [N, L] that they are coded as."""
    squares, codes = [], []
    with torch.no_grad():
        for chunk in images.split(CHUNK):
            picture_B3SS = to_unit_range(chunk)
            tokens = vqvae.tokenize(picture_B3SS)
            decoded_B3SS = vqvae.decode(vqvae.quantize.accumulate(tokens))
            squares.append(((decoded_B3SS - picture_B3SS) / 2).square().mean((1, 2, 3)))
            codes.append(torch.cat(tokens, dim=1))
    mse, tokens_NL = torch.cat(squares).mean().item(), torch.cat(codes)
    counts_V = tokens_NL.flatten().bincount(minlength=vqvae.spec.vocab_size).double()
    use = (counts_V > 0).double().mean().item()
    return Tokenizer(len(images), mse, -10 * math.log10(mse), use, perplexity(counts_V)), tokens_NL


def perplexity(counts_V: Tensor) -> float:
    """exp of the entropy of a histogram."""
    share_V = counts_V[counts_V > 0] / counts_V.sum()
    return math.exp(-(share_V * share_V.log()).sum().item())


def token_cross_entropy(var: Var, vqvae: Vqvae, tokens_NL: Tensor, labels_N: Tensor) -> CrossEntropy:
    """Of teacher-forced tokens, by the pass that the model was trained with (class tokens where it has them)."""
    spec, total_K = var.spec, torch.zeros(var.spec.scale_count)
    with torch.no_grad():
        for tokens_BL, labels_B in zip(tokens_NL.split(CHUNK), labels_N.split(CHUNK), strict=True):
            maps_BLz = vqvae.quantize.teacher_maps(list(tokens_BL.split(spec.scale_tokens, dim=1)))
            if spec.var.class_token_scales:
                logits_BLV = var.forward_train_class_tokens(labels_B, maps_BLz)[0]
            else:
                logits_BLV = var.forward_train(labels_B, maps_BLz)
            total_K += scale_losses(logits_BLV, tokens_BL, spec) * len(labels_B)
    nats_K = total_K / len(labels_N)
    return CrossEntropy(len(labels_N), mean_over_tokens(nats_K, spec).item(), tuple(nats_K.tolist()))
