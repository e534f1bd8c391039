"""Parquet in the image convention of Hugging Face `datasets`: a struct of bytes and path, and labels with names."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hieramp.runtime.batches import Unit
from hieramp.runtime.catalogue import ClassEntry
from hieramp.runtime.durable import replacing
from hieramp.runtime.errors import SettingsError
from hieramp.runtime.writers.writer import Encoded, Target, named_damage

STORED = ("data/train-[0-9]*-of-[0-9]*.parquet",)
DATA_FILES = "data/train-*.parquet"
LOADING = '''```python
from datasets import load_dataset

pictures = load_dataset("parquet", data_files="data/train-*.parquet", split="train")
pictures[0]["image"], pictures.features["label"].int2str(pictures[0]["label"])
```'''
SOFT = "soft_label"
SOFT_LOADING = """They are the column `soft_label`, a list of float32 by label."""
_ROWS_A_GROUP = 100


class ParquetShards:
    """Writes `data/train-00000-of-00004.parquet` and so on; the pictures of one file are held in memory."""

    def __init__(self, target: Target):
        self._target, self._arrow = target, _import_pyarrow()

    def folders(self) -> Iterable[Path]:
        return (self._target.root / "data",)

    def files(self, unit: Unit) -> Iterable[Path]:
        return (self._path(unit.number),)

    def open(self, unit: Unit) -> "ParquetSink":
        return ParquetSink(self._path(unit.number), self._schema())

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        import pyarrow.parquet

        size = self._target.pictures_a_unit
        for shard in sorted({number // size for number in numbers}):
            with named_damage(self._path(shard)):
                images = pyarrow.parquet.read_table(self._path(shard), columns=["image"]).column("image")
                pictures = [images[n % size].as_py()["bytes"] for n in numbers if n // size == shard]
            yield from pictures

    def soft_labels(self, units: Iterable[Unit]) -> Iterator[NDArray[np.float32]]:
        import pyarrow.parquet

        for unit in units:
            path, shape = self._path(unit.number), (len(unit.pictures), len(self._target.classes))
            with named_damage(path):
                column = pyarrow.parquet.read_table(path, columns=[SOFT]).column(SOFT)
                logits_bV = np.array(column.to_pylist(), np.float32).reshape(shape)
            yield logits_bV

    def _path(self, shard: int) -> Path:
        return self._target.root / "data" / f"train-{shard:05d}-of-{self._target.unit_count:05d}.parquet"

    def _schema(self) -> Any:
        arrow, names = self._arrow, unique_names(self._target.classes)
        features: dict[str, object] = {
            "image": {"_type": "Image"},
            "label": {"names": names, "_type": "ClassLabel"},
            "index": {"dtype": "int64", "_type": "Value"},
            "class_index": {"dtype": "int64", "_type": "Value"},
        }
        soft = [(SOFT, arrow.list_(arrow.float32()))] if self._target.soft else []
        if soft:
            features[SOFT] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
        about = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
        image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        whole = arrow.int64()
        columns = [("image", image), ("label", whole), ("index", whole), ("class_index", whole), *soft]
        return arrow.schema(columns, about)


class ParquetSink:
    """Collects the rows of a file and writes it at once."""

    def __init__(self, path: Path, schema: Any):
        self._path, self._schema = path, schema
        self._rows: list[dict[str, object]] = []

    def add(self, pictures: Sequence[Encoded]) -> None:
        self._rows += map(_row, pictures)

    def commit(self) -> None:
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(self._rows, self._schema)
        with replacing(self._path) as stream:
            pyarrow.parquet.write_table(table, stream, row_group_size=_ROWS_A_GROUP, compression="none")

    def keep(self) -> None:
        self.discard()

    def discard(self) -> None:
        self._rows.clear()


def unique_names(classes: Sequence[ClassEntry]) -> list[str]:
    """Names as class labels, which must differ; ImageNet has two cranes and two maillots."""
    uses = Counter(entry.name for entry in classes)
    names = [entry.name if uses[entry.name] == 1 else f"{entry.name} ({entry.folder})" for entry in classes]
    return names if len(set(names)) == len(names) else [entry.folder for entry in classes]


def _row(picture: Encoded) -> dict[str, object]:
    name = f"{picture.entry.folder}_{picture.index:05d}.png"
    return {"image": {"bytes": picture.png, "path": name}, "label": picture.label, "index": picture.index,
            "class_index": picture.entry.index, **({} if picture.soft_V is None else {SOFT: picture.soft_V})}


def _import_pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError:
        raise SettingsError("--format parquet needs pyarrow: pip install 'hieramp[parquet]'") from None
    arrow: ModuleType = pyarrow
    return arrow
