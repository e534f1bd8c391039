"""What a user asked for, and what a folder holds after it."""

from dataclasses import dataclass, field
from pathlib import Path

from hieramp.runtime.batches import Shard
from hieramp.runtime.edit import Edit
from hieramp.runtime.schedule import Overrides


@dataclass(frozen=True)
class Job:
    """What a user asked for; None stands for the plan's own default, and for this machine where `ray` is None.

    `edit` is a picture or its tokens (.npz), of which `edit_mask` and `keep_scales` say what is kept, or all of that.
    """

    out: Path
    engine: Path | None = None
    classes: str | None = None
    ipc: int = 10
    seed: int = 0
    batch_size: int | None = None
    backend: str = "auto"
    provider: str | None = None
    threads: int | None = None
    overrides: Overrides = field(default_factory=Overrides)
    save_size: int | None = None
    overwrite: bool = False
    compute: str = "f32"
    verify: bool = False
    layout: str = "folder"
    shard_size: int | None = None
    shard: Shard = field(default_factory=Shard)
    teacher: Path | None = None
    teacher_classes: Path | None = None
    ray: str | None = None
    edit: Path | Edit | None = None
    edit_mask: Path | None = None
    keep_scales: int | None = None
    save_tokens: bool = False
    safer_plan: Path | None = None


@dataclass(frozen=True)
class Report:
    """What a folder holds after a run; `drawn` counts the pictures that this run drew, in `seconds`.

    `teacher_agreement` is the share of a whole dataset's pictures that the teacher calls by their class.
    `redrawn` counts those of the folder that a safer plan drew.
    """

    plan: str
    out: Path
    contact_sheet: Path | None
    pictures: int
    classes: int
    drawn: int
    seconds: float
    backend: str
    backend_choice: str
    teacher_agreement: float | None = None
    redrawn: int = 0

    @property
    def images_per_second(self) -> float:
        return self.drawn / self.seconds if self.drawn else 0.0
