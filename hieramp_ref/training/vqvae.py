"""Stage 1, the VQVAE: L1 + MSE reconstruction and the quantizer's loss; no adversarial and no perceptual (LPIPS) loss.

Both would need a second network and serve sharpness at large sizes; at 32 pixels plain reconstruction is enough.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss
from torch.optim import Optimizer

from hieramp_ref.checkpoint import load_vqvae
from hieramp_ref.quantizer import MultiScaleQuantizer
from hieramp_ref.training.data import load_held_out, load_images
from hieramp_ref.training.draws import batch_indices, coin_flips, generator
from hieramp_ref.training.optimizers import adamw
from hieramp_ref.training.pictures import flip_some, to_unit_range
from hieramp_ref.training.schedule import cosine
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.stage import Stage
from hieramp_ref.training.state import Record, TrainState
from hieramp_ref.vqvae import Vqvae

RESEED_STEPS = 200
HELD_OUT_IMAGES = 1024


@torch.no_grad()
def residual_vectors(quantizer: MultiScaleQuantizer, f_BzPP: Tensor) -> Tensor:
    """All vectors that the quantizer looks up in its codebook for these features, [B·L, z]."""
    rest_BzPP, vectors = f_BzPP, []
    for k in range(len(quantizer.spec.patch_sides)):
        pooled_Blz = quantizer.pooled(k, rest_BzPP)
        vectors.append(pooled_Blz.flatten(0, 1))
        rest_BzPP = rest_BzPP - quantizer.contribution(k, quantizer.lookup(quantizer.nearest(pooled_Blz)))
    return torch.cat(vectors)


def reconstruction_loss(decoded_B3hw: Tensor, images_B3hw: Tensor) -> Tensor:
    """L1 + MSE."""
    return l1_loss(decoded_B3hw, images_B3hw) + mse_loss(decoded_B3hw, images_B3hw)


class VqvaeStage(Stage):
    """Trains the tokenizer on mirrored images; codebook entries that fell out of use are re-seeded."""

    name = "vqvae"
    prefix = "vae"
    schedule = staticmethod(cosine)
    model: Vqvae

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__(settings)
        side = settings.spec.vqvae.image_side
        self.images, _ = load_images(settings.data, "train", side)
        self.held_out, _ = load_held_out(settings.data, side, HELD_OUT_IMAGES)
        self.item_count = len(self.images)
        self.model = self.build_model().requires_grad_(True).train()
        # Tensor cores want channels last; bf16 convolutions of a CPU ran no faster with it.
        self.layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        self.model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]

    def build_model(self) -> Vqvae:
        """The model to start from."""
        if self.settings.init is not None:
            return load_vqvae(self.settings.init, self.settings.spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return Vqvae(self.settings.spec.vqvae)

    def data(self) -> dict[str, Tensor]:
        return {"train": self.images, "test": self.held_out}

    def optimizers(self) -> list[Optimizer]:
        return [adamw(self.model.named_parameters())]

    def memory(self) -> dict[str, Tensor]:
        """The step at which each codebook entry was last used; a fresh codebook counts as never used."""
        never = 0 if self.settings.init is not None else -RESEED_STEPS
        return {"last_used_V": torch.full((self.settings.spec.vqvae.vocab_size,), never, device=self.device)}

    def batch(self, step: int) -> Tensor:
        """The images [B, 3, S, S] of a step, in -1..1."""
        settings = self.settings
        chosen = self.images[batch_indices(self.item_count, settings.batch_size, settings.seed, step)]
        flipped = flip_some(chosen, coin_flips(len(chosen), 0.5, settings.seed, "flip", step))
        return to_unit_range(self.to_device(flipped)).contiguous(memory_format=self.layout)

    def loss(self, step: int, state: TrainState) -> tuple[Tensor, dict[str, Tensor]]:
        images_B3hw = self.batch(step)
        with self.settings.autocast(self.device):
            f_BzPP = self.model.encode(images_B3hw)
        f_hat_BzPP, quantizer_loss, tokens = self.model.quantize(f_BzPP.float())
        with self.settings.autocast(self.device):
            decoded_B3hw = self.model.decode(f_hat_BzPP, clamp=False)
        loss = reconstruction_loss(decoded_B3hw.float(), images_B3hw) + quantizer_loss
        mse = mse_loss(decoded_B3hw.detach().float(), images_B3hw)
        state.memory["last_used_V"][torch.cat([t.flatten() for t in tokens])] = step
        return loss, {"quantizer": quantizer_loss.detach(), "psnr": -10 * (mse / 4).log10()}

    @torch.no_grad()
    def before_step(self, step: int, state: TrainState) -> None:
        """Re-seed entries unused for `RESEED_STEPS` from what the quantizer is asked to code."""
        if step % RESEED_STEPS:
            return
        stale_V = state.memory["last_used_V"] <= step - RESEED_STEPS
        if not stale_V.any():
            return
        with self.settings.autocast(self.device):
            f_BzPP = self.model.encode(self.batch(step))
        vectors = residual_vectors(self.model.quantize, f_BzPP.float())
        source = generator(self.settings.seed, "reseed", step)
        draws = torch.randint(len(vectors), (int(stale_V.sum()),), generator=source)
        _replace_entries(state, stale_V, vectors[self.to_device(draws)])
        state.memory["last_used_V"][stale_V] = step

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Record:
        """PSNR on held-out images (of the clamped pictures) and the share of the codebook that they use."""
        assert isinstance(model, Vqvae)
        squares, losses, used = [], [], set()
        for chunk in self.held_out.split(self.settings.batch_size):
            images_B3hw = to_unit_range(self.to_device(chunk))
            f_hat_BzPP, quantizer_loss, tokens = model.quantize(model.encode(images_B3hw))
            decoded_B3hw = model.decode(f_hat_BzPP, clamp=False)
            used.update(torch.cat([t.flatten() for t in tokens]).tolist())
            losses.append((reconstruction_loss(decoded_B3hw, images_B3hw) + quantizer_loss) * len(chunk))
            squares.append((decoded_B3hw.clamp(-1, 1) - images_B3hw).square().mean((1, 2, 3)))
        loss = torch.stack(losses).sum().item() / len(self.held_out)
        mse = torch.cat(squares).mean().item()
        use = len(used) / model.spec.vocab_size
        return {"val_loss": loss, "val_psnr": -10 * math.log10(mse / 4), "val_codebook_use": use}


def _replace_entries(state: TrainState, chosen_V: Tensor, vectors: Tensor) -> None:
    """New codebook entries in the model and in its average, with the optimizer's memory of the old ones erased."""
    models = [model for model in (state.model, state.ema) if isinstance(model, Vqvae)]
    for model in models:
        model.quantize.embedding.weight[chosen_V] = vectors
    for optimizer in state.optimizers:
        for moment in optimizer.state.get(models[0].quantize.embedding.weight, {}).values():
            if moment.shape[:1] == chosen_V.shape:
                moment[chosen_V] = 0
