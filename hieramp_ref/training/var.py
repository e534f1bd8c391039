"""Stage 2, the VAR transformer: token cross-entropy over all scales under teacher forcing, one label in ten dropped."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from hieramp_ref.checkpoint import load_var, load_vqvae, with_class_tokens
from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.attention import use_plain_attention
from hieramp_ref.training.data import load_held_out, load_images
from hieramp_ref.training.draws import batch_indices, coin_flips, drop_labels
from hieramp_ref.training.optimizers import optimizers
from hieramp_ref.training.settings import TrainSettings
from hieramp_ref.training.stage import Stage
from hieramp_ref.training.state import Record, TrainState
from hieramp_ref.training.tokens import cached_tokens
from hieramp_ref.var import Var

HELD_OUT_IMAGES = 1024


class Batch(NamedTuple):
    """Tokens [B, L], the teacher-forced inputs that they give [B, L - l_0, z], and class labels [B]."""

    tokens_BL: Tensor
    maps_BLz: Tensor
    labels_B: Tensor


def required(path: Path | None, option: str) -> Path:
    """The path, or an error that names the option which gives it."""
    if path is None:
        raise SpecError(f"this stage needs weights to start from: give --{option} WEIGHTS")
    return path


def scale_losses(logits_BLV: Tensor, tokens_BL: Tensor, spec: ModelSpec) -> Tensor:
    """Mean token cross-entropy of every scale, [K]."""
    each_BL = cross_entropy(logits_BLV.transpose(1, 2), tokens_BL, reduction="none")
    return torch.stack([part.mean() for part in each_BL.split(spec.scale_tokens, dim=1)])


def mean_over_tokens(losses_K: Tensor, spec: ModelSpec) -> Tensor:
    """The training loss: every token of every scale weighs the same."""
    weights_K = torch.tensor(spec.scale_tokens, device=losses_K.device) / spec.token_count
    return (losses_K * weights_K).sum()


def fresh_var(spec: ModelSpec, seed: int) -> Var:
    """A transformer with initial weights, without class tokens."""
    var = Var(with_class_tokens(spec, ()))
    var.init_weights(torch.Generator().manual_seed(seed))
    return var


class VarStage(Stage):
    """Trains the transformer on the tokens of the mirrored and unmirrored images."""

    name = "var"
    prefix = "var"
    model: Var

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__(settings)
        self.vqvae = load_vqvae(required(settings.vqvae, "vqvae"), settings.spec).to(self.device)
        self.model = self.build_model().requires_grad_(True).train().to(self.device)
        if self.device.type == "cpu":
            use_plain_attention(self.model)
        self.forward_train = settings.compiled(self.model.forward_train)
        self.forward_train_class_tokens = settings.compiled(self.model.forward_train_class_tokens)
        side = settings.spec.vqvae.image_side
        sets = {"train": load_images(settings.data, "train", side, "index"),
                "test": load_held_out(settings.data, side, HELD_OUT_IMAGES, "index")}
        self.labels = {split: labels for split, (_, labels) in sets.items()}
        self.images = {split: pictures for split, (pictures, _) in sets.items()}
        self.item_count = len(self.labels["train"])
        for labels in self.labels.values():
            check_labels(labels, settings.spec)

    def build_model(self) -> Var:
        """The model to start from."""
        if self.settings.init is not None:
            return load_var(self.settings.init, self.settings.spec)
        return fresh_var(self.settings.spec, self.settings.seed)

    def data(self) -> dict[str, Tensor]:
        return self.images | {f"{split} labels": labels for split, labels in self.labels.items()}

    def prepare(self) -> None:
        """The tokens of the images, which then can go."""
        self.tokens = cached_tokens(self.settings.out, self.images, self.vqvae, self.device)
        self.images = {}

    def optimizers(self) -> list[Optimizer]:
        return optimizers(self.model, self.settings.optimizer)

    def batch(self, step: int) -> Batch:
        """A step's batch, mirrored at random."""
        settings = self.settings
        chosen = batch_indices(self.item_count, settings.batch_size, settings.seed, step)
        flips = coin_flips(len(chosen), 0.5, settings.seed, "flip", step).long()
        return self.teacher_forced(self.tokens["train"][chosen, flips], self.labels["train"][chosen])

    @torch.no_grad()
    def teacher_forced(self, tokens_BL: Tensor, labels_B: Tensor) -> Batch:
        """A batch on the device, with the inputs of scales 1..K-1."""
        tokens_BL = self.to_device(tokens_BL).long()
        scales = list(tokens_BL.split(self.settings.spec.scale_tokens, dim=1))
        return Batch(tokens_BL, self.vqvae.quantize.teacher_maps(scales), self.to_device(labels_B))

    def dropped(self, labels_B: Tensor, step: int) -> Tensor:
        """Labels for conditioning, some replaced by the unconditional one."""
        return drop_labels(labels_B, self.settings.spec.var.num_classes, self.settings.seed, step)

    def loss(self, step: int, state: TrainState) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.batch(step)
        with self.settings.autocast(self.device):
            logits_BLV = self.forward_train(self.dropped(batch.labels_B, step), batch.maps_BLz)
        losses_K = scale_losses(logits_BLV.float(), batch.tokens_BL, self.settings.spec)
        return mean_over_tokens(losses_K, self.settings.spec), by_scale("scale", losses_K.detach())

    def held_out(self) -> Iterator[Batch]:
        """Held-out images, unmirrored, in chunks."""
        size = self.settings.batch_size
        chunks = zip(self.tokens["test"][:, 0].split(size), self.labels["test"].split(size), strict=True)
        return (self.teacher_forced(tokens_BL, labels_B) for tokens_BL, labels_B in chunks)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Record:
        """Token cross-entropy with the right label, in all and a scale."""
        assert isinstance(model, Var)
        losses, count = torch.zeros(self.settings.spec.scale_count, device=self.device), 0
        for batch in self.held_out():
            with self.settings.autocast(self.device):
                logits_BLV = model.forward_train(batch.labels_B, batch.maps_BLz)
            losses += scale_losses(logits_BLV.float(), batch.tokens_BL, self.settings.spec) * len(batch.labels_B)
            count += len(batch.labels_B)
        means_K = losses / count
        total = mean_over_tokens(means_K, self.settings.spec).item()
        return {"val_loss": total} | {name: value.item() for name, value in by_scale("val_scale", means_K).items()}


def by_scale(name: str, values_K: Tensor) -> dict[str, Tensor]:
    """Values of scales under numbered names."""
    return {f"{name}_{k}": value for k, value in enumerate(values_K)}


def check_labels(labels: Tensor, spec: ModelSpec) -> None:
    """Refuse data of classes that the model lacks."""
    if int(labels.max()) >= spec.var.num_classes:
        raise SpecError(f"the data has class {int(labels.max())}, the model classes 0..{spec.var.num_classes - 1}: "
                        "set num_classes in the configuration")
