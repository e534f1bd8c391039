"""Training, keeping and asking a classifier: the independent judge of whether a picture shows the intended class."""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim import SGD
from tqdm import tqdm

from hieramp_ref.errors import CheckpointError, DataError, SpecError
from hieramp_ref.students.resnet import Resnet, ResnetSpec
from hieramp_ref.training.draws import batch_indices, coin_flips, generator
from hieramp_ref.training.ema import ema_copy, ema_decay, update_ema
from hieramp_ref.training.pictures import flip_some
from hieramp_ref.training.schedule import progress
from hieramp_ref.training.state import write_atomically

METADATA_KEY = "classifier"
RISE = 0.2
SETTLING_BATCHES = 20


@dataclass(frozen=True)
class ClassifierSettings:
    """A training run: it ends after `epochs` or `minutes`, whichever is first, and its learning rate follows."""

    epochs: float = 8.0
    minutes: float | None = None
    batch_size: int = 256
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema: float = 0.99
    padding: int = 4
    seed: int = 0
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if not all(0 < length < math.inf for length in (self.epochs, self.minutes) if length is not None):
            raise SpecError(f"epochs and minutes must be positive and finite, got {self.epochs} and {self.minutes}")
        if self.batch_size < 1:
            raise SpecError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.precision not in ("bf16", "fp32"):
            raise SpecError(f"precision must be one of bf16, fp32, got {self.precision!r}")


def train_classifier(images: Tensor, labels: Tensor, spec: ResnetSpec, settings: ClassifierSettings) -> Resnet:
    """A classifier of images uint8 [N, 3, S, S] with the moving average of its weights; repeats when run by epochs."""
    if len(images) < settings.batch_size:
        raise DataError(f"batch_size must be at most the {len(images)} training images, got {settings.batch_size}")
    model = fresh_classifier(images, spec, settings.seed).train()
    ema = ema_copy(model)
    optimizer = SGD(_groups(model, settings.weight_decay), lr=settings.lr, momentum=settings.momentum, nesterov=True)
    steps = max(1, round(settings.epochs * (len(images) // settings.batch_size)))
    began = time.monotonic()
    with tqdm(total=steps, desc="classifier", unit="step", disable=None) as bar:
        for step in range(steps):
            done = progress(step, steps, time.monotonic() - began, settings.minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * one_cycle(done)
            loss = _loss(model, *training_batch(images, labels, settings, step), settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_ema(ema, model, ema_decay(settings.ema, step))
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    settle(ema, (training_batch(images, labels, settings, steps + i)[0] for i in range(SETTLING_BATCHES)))
    return ema


def fresh_classifier(images: Tensor, spec: ResnetSpec, seed: int) -> Resnet:
    """Initial weights of a seed, with the pixel statistics of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Resnet(spec)
    sample = images[:: max(1, len(images) // 5000)].float()
    model.mean_311.copy_(sample.mean((0, 2, 3)).view(3, 1, 1))
    model.deviation_311.copy_(sample.std((0, 2, 3)).clamp_min(1.0).view(3, 1, 1))
    return model


def one_cycle(done: float) -> float:
    """Learning-rate factor over the progress of a run: a linear rise, then a linear fall to nothing."""
    return done / RISE if done < RISE else max(0.0, (1 - done) / (1 - RISE))


def training_batch(images: Tensor, labels: Tensor, settings: ClassifierSettings, step: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step, each image shifted by up to `padding` pixels and mirrored at random."""
    chosen = batch_indices(len(images), settings.batch_size, settings.seed, step)
    flips = coin_flips(len(chosen), 0.5, settings.seed, "classifier flip", step)
    source = generator(settings.seed, "classifier shift", step)
    shifts = torch.randint(0, 2 * settings.padding + 1, (2, len(chosen)), generator=source)
    return flip_some(shifted(images[chosen], shifts, settings.padding), flips), labels[chosen]


def shifted(image_B3SS: Tensor, shift_2B: Tensor, padding: int) -> Tensor:
    """Crops of the images reflected at their edges, from rows `shift_2B[0]` and columns `shift_2B[1]` on."""
    side = image_B3SS.shape[-1]
    padded_B3hw = pad(image_B3SS.float(), (padding,) * 4, mode="reflect")
    rows_BS, columns_BS = shift_2B[..., None] + torch.arange(side)
    batch_B111 = torch.arange(len(image_B3SS))[:, None, None, None]
    return padded_B3hw[batch_B111, torch.arange(3)[:, None, None], rows_BS[:, None, :, None],
                       columns_BS[:, None, None, :]]


@torch.no_grad()
def settle(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make the running statistics of batch norm those of the model's own weights, averaged evenly over the batches.

    Averaged weights have other statistics than the weights that were trained.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None
    for batch in batches:
        model(batch)
    for norm in norms:
        norm.eval()


@torch.no_grad()
def predict(model: Resnet, images: Tensor, batch_size: int = 500) -> Tensor:
    """Classes int64 [N] of images uint8 [N, 3, S, S], by the logits of each image and of its mirror image together."""
    if images.shape[1:] != (3, model.spec.image_side, model.spec.image_side):
        raise DataError(f"the classifier takes images 3x{model.spec.image_side}x{model.spec.image_side}, "
                        f"got {'x'.join(map(str, images.shape[1:]))}")
    chunks = [(model(chunk) + model(chunk.flip(-1))).argmax(1) for chunk in images.split(batch_size)]
    return torch.cat(chunks)


def save_classifier(path: Path, model: Resnet, about: dict[str, object]) -> None:
    """Write weights, sizes and `about` (how it was trained and what it reached) as one safetensors file."""
    metadata = {METADATA_KEY: json.dumps({"spec": asdict(model.spec), "about": about})}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_classifier(path: Path) -> tuple[Resnet, dict[str, object]]:
    """A classifier ready to ask, and what was written about it."""
    try:
        with safe_open(path, framework="pt") as stored:
            described = json.loads((stored.metadata() or {})[METADATA_KEY])
        values = described["spec"]
        model = Resnet(ResnetSpec(**values | {"widths": tuple(values["widths"])}))
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no classifier of this project: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False), dict(described["about"])


def _loss(model: Resnet, images: Tensor, labels: Tensor, settings: ClassifierSettings) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = model(images)
    return cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Kernels and matrices decay, biases and batch norm do not."""
    parameters = list(model.parameters())
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
