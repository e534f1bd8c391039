"""The layouts by name: what writes each, what it leaves behind, and how its dataset is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.recipe import Recipe
from hieramp.runtime.writers import parquet, picture_folder, rded, webdataset
from hieramp.runtime.writers.writer import Target, Writer


@dataclass(frozen=True)
class Layout:
    """`stored` are the patterns of its files, below the folder of a class if `by_class`, else below the root.

    Soft labels of a layout `by_class` lie in files of the root, `picture_folder.SOFT_STORED`.
    """

    write: Callable[[Target], Writer]
    stored: tuple[str, ...]
    data_files: str
    loading: str
    soft_loading: str
    by_class: bool = False
    packages: tuple[str, ...] = ()


LAYOUTS = {
    "folder": Layout(picture_folder.PictureFolder, picture_folder.STORED, picture_folder.DATA_FILES,
                     picture_folder.LOADING, picture_folder.SOFT_LOADING, by_class=True),
    "webdataset": Layout(webdataset.WebDatasetShards, webdataset.STORED, webdataset.DATA_FILES, webdataset.LOADING,
                         webdataset.SOFT_LOADING),
    "parquet": Layout(parquet.ParquetShards, parquet.STORED, parquet.DATA_FILES, parquet.LOADING,
                      parquet.SOFT_LOADING, packages=("pyarrow",)),
    "rded": Layout(rded.RdedFolder, rded.STORED, rded.DATA_FILES, rded.LOADING, picture_folder.SOFT_LOADING,
                   by_class=True),
}
DEFAULT_SHARD_SIZE = 500


def with_layout(recipe: Recipe, layout: str, shard_size: int | None = None) -> Recipe:
    """The recipe in a layout; `shard_size`, pictures a file, is rounded up to whole batches."""
    if LAYOUTS[layout].by_class:
        return replace(recipe, layout=layout)
    batches = -(-(shard_size or DEFAULT_SHARD_SIZE) // recipe.batch_size)
    return replace(recipe, layout=layout, shard_size=batches * recipe.batch_size)


def with_tokens(recipe: Recipe) -> Recipe:
    """The recipe with tokens beside the pictures; raises SettingsError where the layout has no place for them."""
    if recipe.layout != "folder":
        raise SettingsError(f"--save-tokens writes files beside those of --format folder, got --format {recipe.layout}")
    return replace(recipe, save_tokens=True)


def laid_out(classes: tuple[ClassEntry, ...], layout: str) -> tuple[ClassEntry, ...]:
    """The classes with the folders they have in a layout."""
    return rded.numbered(classes) if layout == "rded" else classes


def target_of(root: Path, recipe: Recipe, classes: tuple[ClassEntry, ...],
              patch_sides: tuple[int, ...] = ()) -> Target:
    """Where a recipe's pictures go, and, where it says so, their tokens; `patch_sides` are the model's."""
    batches_a_unit = recipe.shard_size // recipe.batch_size if recipe.shard_size else 1
    return Target(root, classes, recipe.batches, recipe.seed, batches_a_unit, recipe.teacher is not None,
                  patch_sides if recipe.save_tokens else ())
