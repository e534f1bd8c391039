"""The layout of RDED (github.com/LINs-lab/RDED): five-digit folders, `class<label>_id<index>` files.

RDED's loader asks for the folders 00000 to n−1 and takes every file in them, so the number is the label: the position
of the class among the chosen ones in the model's order, for all of ImageNet the usual class number. Its validation
folders must be numbered alike.
"""

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.writers.picture_folder import PictureFolder

STORED = ("class[0-9]*_id[0-9]*.png",)
DATA_FILES = "*/*.png"
LOADING = """Give the folder to RDED as `--syn-data-path`. Its folders are numbered by label; those of the validation
data (`val/00000` …) must hold the classes in the order of `classes.json`."""


class RdedFolder(PictureFolder):
    """Five-digit folders need the classes of `numbered`."""

    def file_name(self, label: int, index: int) -> str:
        return f"class{label:05d}_id{index:05d}.png"


def numbered(classes: tuple[ClassEntry, ...]) -> tuple[ClassEntry, ...]:
    """The classes with their labels as folders."""
    return tuple(ClassEntry(entry.index, f"{label:05d}", entry.name, entry.aliases)
                 for label, entry in enumerate(classes))
