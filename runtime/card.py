"""The README.md of a dataset: what it holds, how it was made, how to load it, what a label means."""

import json
import re
from collections.abc import Mapping, Sequence

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.plan import Plan
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.redrawn import Redrawn
from hieramp.runtime.writers.layouts import LAYOUTS

_MOST_CLASSES = 50
_ORIGINS = ("No picture is a photograph.", "Every picture keeps a part of one that was given; the rest is drawn.")
_MOST_REDRAWN = 50
_MARKUP = re.compile(r"[\\|<\[`]")


def card_text(plan: Plan, recipe: Recipe, classes: Sequence[ClassEntry], contact_sheet: str, unit_count: int,
              agreement: float | None = None, redrawn: Mapping[int, Redrawn] | None = None) -> str:
    """Markdown with the header that Hugging Face reads; it holds no date, so that equal datasets have equal cards."""
    layout, name = LAYOUTS[recipe.layout], _cell(plan.manifest.name)
    loading = layout.loading.replace("FIRST", f"{0:06d}").replace("LAST", f"{unit_count - 1:06d}")
    parts = [
        _header(plan, layout.data_files),
        f"# {recipe.batches.pictures} pictures of {len(classes)} classes from {name}",
        f"Generated with HierAmp from the plan `{name}` (precision {plan.manifest.precision}), {recipe.ipc} a class, "
        f"{recipe.image_side}×{recipe.image_side} pixels, RGB. {_ORIGINS[recipe.edit is not None]}",
        f"![Contact sheet]({contact_sheet})",
        "## Load", loading,
        "## Labels", _labels(classes),
        *(["## Soft labels", _soft_labels(recipe, agreement, layout.soft_loading)] if agreement is not None else []),
        "## Settings", _settings(plan, recipe),
        *(["## Drawn in a safer precision", _redrawn(recipe, classes, redrawn)] if redrawn else []),
        "## Licence", _licence(plan),
    ]
    return "\n\n".join(parts) + "\n"


def _header(plan: Plan, data_files: str) -> str:
    """JSON strings are YAML strings."""
    licence = [f"license: {json.dumps(plan.manifest.license)}"] if plan.manifest.license else []
    lines = [*licence, "task_categories:", "- image-classification", "tags:", "- dataset-distillation", "- synthetic",
             "configs:", "- config_name: default", "  data_files:", "  - split: train",
             f"    path: {json.dumps(data_files)}"]
    return "\n".join(["---", *lines, "---"])


def _labels(classes: Sequence[ClassEntry]) -> str:
    rows = [f"| {label} | {_cell(entry.name)} | `{_cell(entry.folder)}` | {entry.index} |"
            for label, entry in enumerate(classes[:_MOST_CLASSES])]
    more = [f"\n{len(classes) - _MOST_CLASSES} more are in `classes.json`."] if len(classes) > _MOST_CLASSES else []
    return "\n".join([
        "A label is the position of its class in `classes.json`, which keeps the model's order; `index` is the model's "
        "own number\nof the class. A teacher of all the model's classes is to be asked for the columns `index`.\n",
        "| label | name | class | index |", "|---|---|---|---|", *rows, *more,
    ])


def _soft_labels(recipe: Recipe, share: float, loading: str) -> str:
    return (f"Each picture has the logits (float32, before softmax) of the teacher `{recipe.teacher}` (SHA-256 "
            f"`{recipe.teacher_sha256}`), which\nwas asked about the picture as it is stored; value i is for label i.\n"
            f"The teacher's largest logit is that of the label for {share:.1%} of the pictures.\n\n{loading}")


def _settings(plan: Plan, recipe: Recipe) -> str:
    settings = recipe.settings
    rows = [
        ("plan", f"`{_cell(recipe.plan)}`"), ("SHA-256 of its manifest", f"`{recipe.plan_sha256}`"),
        ("seed", recipe.seed),
        ("images per class", recipe.ipc), ("batch size", recipe.batch_size), ("provider", recipe.provider),
        ("guidance (cfg), a scale", _values(settings.cfg)), ("amplification β, a scale", _values(settings.beta)),
        ("amplified share ρ, a scale", _values(settings.rho)), ("top-k", settings.top_k), ("top-p", settings.top_p),
        *([("kept tokens, a scale", _values(recipe.kept_tokens))] if recipe.kept_tokens else []),
        ("format", recipe.layout), *([("pictures a file", recipe.shard_size)] if recipe.shard_size else []),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _redrawn(recipe: Recipe, classes: Sequence[ClassEntry], redrawn: Mapping[int, Redrawn]) -> str:
    """The pictures that are not what the settings above would draw again."""
    listed = [redrawn[number] for number in sorted(redrawn)]
    rows = [f"| {_cell(classes[recipe.batches.label(one.number)].name)} | {one.index} | {one.precision} "
            f"| `{one.safer_plan}` | {one.safer_precision} | `{one.safer_plan_sha256}` |" for one in listed]
    more = [f"\n{len(rows) - _MOST_REDRAWN} more are in `dataset.json`."] if len(rows) > _MOST_REDRAWN else []
    return "\n".join([
        "These came out with NaN or infinity, and were drawn again by another plan of the same model.\n",
        "| class | index | precision | drawn by | in | SHA-256 of its manifest |", "|---|---|---|---|---|---|",
        *rows[:_MOST_REDRAWN], *more,
    ])


def _licence(plan: Plan) -> str:
    return (f"The plan's weights: {_cell(plan.manifest.license)}." if plan.manifest.license
            else "The plan names none; ask where its weights come from.")


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _cell(text: str) -> str:
    """Words of others, which must end no cell and be no markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
