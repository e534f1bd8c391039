"""Weights and plans of a benchmark's model, made in processes of their own and kept for the next run."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from children.child import CHILDREN, Finished, run_child
from recording.record import ROOT

from hieramp.export.model_source import SHIPPED, ModelSource
from hieramp.runtime.errors import HierampError
from hieramp.runtime.plan import shipped_plan

EXPORT = "from hieramp.export.cli import main; main()"
SHIPPED_SETTINGS = ROOT / "engines" / "var_cifar10.settings.json"  # those that the shipped plan was exported with
_PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class ModelFiles:
    """A model by preset or configuration, and the folder where its weights and plans lie."""

    preset: str
    config: Path | None
    work: Path

    @property
    def name(self) -> str:
        return self.config.stem if self.config else self.preset

    @property
    def source(self) -> ModelSource:
        """The model to this process, without its weights."""
        return ModelSource(config=self.config) if self.config else ModelSource(preset=self.preset)

    @property
    def ships(self) -> bool:
        """Whether its weights come with the package; others are random."""
        return not self.config and self.preset == SHIPPED

    @property
    def options(self) -> list[str | Path]:
        """What names the model to the scripts."""
        return ["--config", self.config] if self.config else ["--preset", self.preset]

    @property
    def reference_options(self) -> list[str | Path]:
        """What names model and weights to `draw_reference.py`."""
        return [*self.options, *(self.settings or ["--weights", self.work])]

    @property
    def settings(self) -> list[str | Path]:
        """Those of the shipped plan; other models have the defaults of their sizes."""
        return ["--settings", SHIPPED_SETTINGS] if self.ships else []

    def plan(self, kind: str) -> Path:
        """Where a plan lies; a kind is a precision, `plain` for fp32 without class tokens, or PRECISION-traced."""
        return shipped_plan() if self.ships and kind == "fp32" else self.work / f"{self.name}-{kind}.plan"


def write_weights(files: ModelFiles, seed: int, timeout: float | None = None) -> Finished:
    """Random weights, `var.pth` and `vae.pth`."""
    files.work.mkdir(parents=True, exist_ok=True)
    return run_child([CHILDREN / "d16_weights.py", *files.options, "--seed", str(seed), "--out", files.work],
                     timeout)


def export(files: ModelFiles, kind: str, timeout: float | None = None) -> Finished:
    """A plan, by the export's own command with its parity gate; `-traced` adds logits and saliency as outputs."""
    kind_before, _, traced = kind.partition("-")
    if kind_before not in (*_PRECISIONS, "plain") or traced not in ("", "traced"):
        raise HierampError(f"a plan must be one of {', '.join(_PRECISIONS)} or plain, got {kind!r}")
    weights = [] if files.ships else ["--var", files.work / "var.pth", "--vae", files.work / "vae.pth"]
    precision, settings, trace = kind_before, files.settings, ["--trace-outputs"] if traced else []
    if kind_before == "plain":
        precision, settings = "fp32", ["--settings", files.work / "plain.json"]
        files.work.mkdir(parents=True, exist_ok=True)
        (files.work / "plain.json").write_text(json.dumps({"strip_cls": True, "amplify": False, "cfg": 4.0,
                                                           "top_k": 900, "top_p": 0.95}))
    return run_child(["-c", EXPORT, *files.options, *weights, *settings, *trace, "--precision", precision,
                      "--out", files.plan(kind), "--json"], timeout)


def prepare(files: ModelFiles, kinds: Collection[str], seed: int, timeout: float | None = None) -> None:
    """Make what is missing of the folder, the weights and these plans; `timeout` is for each, in seconds."""
    files.work.mkdir(parents=True, exist_ok=True)
    if not files.ships and not all((files.work / f"{name}.pth").exists() for name in ("var", "vae")):
        write_weights(files, seed, timeout)
    for kind in kinds:
        if not files.plan(kind).exists():
            export(files, kind, timeout)
