"""All that decides the bytes of a dataset, and how two recipes differ in the words of the command's options."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hieramp.runtime.backend import IntArray
from hieramp.runtime.batches import BatchPlan
from hieramp.runtime.catalogue import ClassEntry, load_catalogue
from hieramp.runtime.class_spec import select_classes
from hieramp.runtime.drawing import default_batch_size
from hieramp.runtime.edit import edit_hash, kept_counts
from hieramp.runtime.manifest import ModelShape
from hieramp.runtime.plan import Plan
from hieramp.runtime.schedule import Overrides, Settings, resolve_settings
from hieramp.runtime.terminal import shortened, shown

_WORDS = {"plan": "the plan", "plan_sha256": "the plan's contents", "layout": "--format", "image_side": "--save-size",
          "versions": "the version of", "teacher_sha256": "the contents of the teacher",
          "teacher_columns": "the teacher's outputs", "edit": "the edited tokens"}
_LONGEST_VALUE = 40
# Why a back end was taken may change (a driver was installed) without changing the pictures; what an edit keeps is in
# its hash.
_NOT_COMPARED = ("backend_choice", "kept_tokens")


@dataclass(frozen=True)
class Recipe:
    """Plan, settings and layout; `shard_size` counts the pictures of a file where one holds several.

    `teacher_columns` are the outputs of the teacher that soft labels are made of, by label.
    `forced` are the tokens that every picture keeps, −1 where one is drawn; records have their hash, `edit`, and how
    many are kept of every scale, `kept_tokens`. All are None where nothing is kept, as in records of earlier versions,
    and so is `save_tokens` where tokens are not stored.
    """

    plan: str
    plan_sha256: str
    settings: Settings
    seed: int
    ipc: int
    classes: tuple[int, ...]
    batch_size: int
    image_side: int
    provider: str
    compute: str = "f32"
    layout: str = "folder"
    shard_size: int | None = None
    backend: str = "onnxruntime"
    backend_choice: str = ""
    teacher: str | None = None
    teacher_sha256: str | None = None
    teacher_columns: tuple[int, ...] | None = None
    edit: str | None = None
    kept_tokens: tuple[int, ...] | None = None
    save_tokens: bool | None = None
    forced: tuple[int, ...] | None = None

    @property
    def batches(self) -> BatchPlan:
        """How its pictures are cut into batches."""
        return BatchPlan(self.classes, self.ipc, self.batch_size)

    def to_json(self) -> dict[str, Any]:
        """Values as JSON holds them; `edit` stands for `forced`."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, forced=None))))
        del values["forced"]
        return values


def resolve_recipe(plan: Plan, *, classes: str | None = None, ipc: int = 10, seed: int = 0,
                   batch_size: int | None = None, overrides: Overrides | None = None, save_size: int | None = None,
                   provider: str = "cpu", compute: str = "f32") -> tuple[Recipe, tuple[ClassEntry, ...]]:
    """The recipe of a user's choices and the classes it draws; None stands for the plan's own default.

    Raises a HierampError that names the choice that cannot be.
    """
    model = plan.manifest.model
    settings = resolve_settings(plan.manifest, overrides)
    chosen = select_classes(classes, load_catalogue(plan.manifest.classes))
    return Recipe(
        plan.manifest.name, plan.digest, settings, seed, ipc, tuple(entry.index for entry in chosen),
        batch_size or default_batch_size(model), save_size or model.image_side, provider, compute,
    ), chosen


def with_edit(recipe: Recipe, forced_L: IntArray | None, model: ModelShape) -> Recipe:
    """The recipe for pictures that keep these tokens."""
    if forced_L is None:
        return recipe
    return replace(recipe, edit=edit_hash(forced_L), kept_tokens=kept_counts(forced_L, model),
                   forced=tuple(forced_L.tolist()))


def differences(made: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """One phrase for every value of `asked` that `made` has otherwise: option, its value there, the one asked for."""
    phrases = []
    for name, wanted in asked.items():
        there = made.get(name)
        if there == wanted or name in _NOT_COMPARED:
            continue
        if isinstance(there, dict) and isinstance(wanted, dict):
            phrases += [f"{_WORDS[name]} {phrase}" if name in _WORDS else f"--{phrase}"
                        for phrase in differences_within(there, wanted)]
        else:
            word = _WORDS.get(name, f"--{name}").replace("_", "-")
            phrases.append(f"{word} {_show(there)} (now {_show(wanted)})")
    return phrases


def differences_within(made: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """The same for one level of names that stand for themselves."""
    names = [name for name in {**asked, **made} if made.get(name) != asked.get(name)]
    return [f"{_show(name).replace('_', '-')} {_show(made.get(name))} (now {_show(asked.get(name))})" for name in names]


def _show(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ",".join(f"{item:g}" if isinstance(item, float) else shown(item) for item in value[:_LONGEST_VALUE])
    else:
        text = "none" if value is None else value if isinstance(value, str) else shown(value)
    return shortened(text, _LONGEST_VALUE)
