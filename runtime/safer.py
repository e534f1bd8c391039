"""The plan of a second try: the same model in a safer precision than the plan that a run draws with."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from hieramp.runtime.errors import SettingsError
from hieramp.runtime.plan import Plan
from hieramp.runtime.scales import load_scale_constants

# float16 overflows at 65504, and 8-bit plans compute in it between their 8-bit layers; the others reach 3e38.
_SAFETY = {"int8": 0, "fp8": 0, "fp16": 1, "bf16": 2, "fp32": 3}


def open_safer(folder: Path | str, plan: Plan, *, saliency: bool = False) -> Plan:
    """Open and verify it; raises SettingsError where it is no safer or of another model, PlanError as `Plan.open`."""
    safer = open_unread(folder, plan, saliency=saliency)
    safer.verify()
    check_same_weights(plan, safer)
    return safer


def open_unread(folder: Path | str, plan: Plan, *, saliency: bool = False) -> Plan:
    """Open it by its manifest alone, with the errors of `open_safer`; `check_same_weights` has to follow."""
    safer = Plan.open(folder, verify=False)
    if difference := _difference(plan, safer):
        raise _refused(plan, safer, difference)
    if saliency and not safer.manifest.trace_outputs:
        raise SettingsError(f"{safer.folder} has no trace outputs, hence no saliency; export it with --trace-outputs")
    return safer


def check_same_weights(plan: Plan, safer: Plan) -> None:
    """Raise SettingsError where they are those of another model; both plans have to be verified."""
    if not _same_constants(plan, safer):
        raise _refused(plan, safer, "its weights are others")


def _refused(plan: Plan, safer: Plan, difference: str) -> SettingsError:
    return SettingsError(f"{safer.folder} cannot draw again what {plan.manifest.name} cannot: {difference}; "
                         "give --safer-plan a plan exported from the same checkpoint with --precision fp32")


def _difference(plan: Plan, safer: Plan) -> str | None:
    """Why a manifest is not that of the same model in a safer precision, or None where it is."""
    ours, theirs = plan.manifest, safer.manifest
    if _SAFETY[theirs.precision] <= _SAFETY[ours.precision]:
        return f"its precision {theirs.precision} is no safer than {ours.precision}"
    for field in fields(ours.model):
        own, other = getattr(ours.model, field.name), getattr(theirs.model, field.name)
        if own != other:
            return f"its {field.name} is {other} where the plan has {own}"
    if ours.classes != theirs.classes:
        return "its classes are others"
    if _blocks(plan) != _blocks(safer):
        return f"it amplifies the blocks {_blocks(safer)} where the plan has {_blocks(plan)}"
    return None


def _blocks(plan: Plan) -> tuple[int, ...]:
    amplification = plan.manifest.amplification
    return amplification.blocks if amplification else ()


def _same_constants(plan: Plan, safer: Plan) -> bool:
    """Whether the embeddings of positions, levels and class tokens are equal, which every precision keeps in float32.

    They are trained with all other weights, which differ in type and so in their bytes.
    """
    pairs = zip(load_scale_constants(plan), load_scale_constants(safer), strict=True)
    return all(np.array_equal(getattr(own, field.name), getattr(other, field.name))
               for own, other in pairs for field in fields(own))
