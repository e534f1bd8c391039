"""A reference recorded on one machine, to check a device by on another: Polygraphy's inputs and run results.

A record is a folder of `record.json`, and for each batch two files as Polygraphy writes and reads them: the inputs
`batch_000.inputs.json` (a list of one feed dictionary) and the reference's outputs `batch_000.outputs.json`
(`RunResults`). `decoder.inputs.json` and `decoder.outputs.json` are those of the decoder graph alone, for
`polygraphy run`.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hieramp.export.errors import ExportError
from hieramp.export.output_folder import replaced_in_one_step
from hieramp.export.parity.facts import Facts
from hieramp.export.parity.observation import Inputs, Observation
from hieramp.runtime.errors import OutputError
from hieramp.runtime.schema import SchemaError, decode, encode

RECORD = "record.json"
RUNNER = "reference"
Array = NDArray[Any]
Pairs = Iterable[tuple[Inputs, Observation]]


def record_pairs(pairs: Pairs, facts: Facts, folder: Path) -> Iterator[tuple[Inputs, Observation]]:
    """Hand the batches on, each written on its way; the folder appears once the last one is through."""
    if folder.exists() and not (folder / RECORD).is_file():
        raise OutputError(f"{folder} exists and is no record: choose another --save")
    with replaced_in_one_step(folder.resolve()) as scratch:
        count = 0
        for count, (inputs, observation) in enumerate(pairs, start=1):
            stem = scratch / f"batch_{count - 1:03d}"
            _write(stem, {"labels": inputs.labels_B, "uniforms": inputs.uniforms_BL}, to_outputs(observation))
            if count == 1:
                _write(scratch / "decoder", {"f_hat": observation.f_hat_BzPP}, {"image": observation.image_B3SS})
            yield inputs, observation
        (scratch / RECORD).write_text(json.dumps({"batches": count, "facts": encode(facts)}, indent=1) + "\n")


def read_facts(folder: Path) -> Facts:
    """What a record says of the reference it is of."""
    try:
        facts: Facts = decode(Facts, _record(folder)["facts"])
    except SchemaError as error:
        raise ExportError(f"{folder / RECORD} is no record of this version ({error}): record again") from None
    return facts


def read_pairs(folder: Path) -> Iterator[tuple[Inputs, Observation]]:
    """The batches of a record."""
    from polygraphy.comparator import RunResults
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import load_json

    for batch in range(_record(folder)["batches"]):
        stem = folder / f"batch_{batch:03d}"
        try:
            with _quiet():
                feed = load_json(f"{stem}.inputs.json")[0]
                outputs = RunResults.load(f"{stem}.outputs.json")[RUNNER][0]
            inputs = Inputs(feed["labels"], feed["uniforms"])
            yield inputs, from_outputs(dict(outputs.items()))
        except (OSError, ValueError, KeyError, IndexError, TypeError, PolygraphyException) as error:
            raise ExportError(f"{stem}.*.json cannot be read ({error}): record again") from error


def read_batch_size(folder: Path) -> int:
    """Pictures in the first batch of a record, which is the largest; 0 of an empty one."""
    return next((len(inputs.labels_B) for inputs, _ in read_pairs(folder)), 0)


def to_outputs(observation: Observation) -> dict[str, Array]:
    """An observation as outputs by name; of a reference, whose history is its own free run."""
    lists: dict[str, tuple[Array, ...]] = {"logits": observation.logits, "saliency": observation.saliency,
                                           "tokens": observation.tokens}
    scales: dict[str, Array] = {f"{name}_{k}": array for name, arrays in lists.items()
                                for k, array in enumerate(arrays)}
    return scales | {"f_hat": observation.f_hat_BzPP, "image": observation.image_B3SS}


def from_outputs(outputs: dict[str, Array]) -> Observation:
    """The observation that `to_outputs` took apart."""
    def scales(name: str) -> tuple[Array, ...]:
        count = sum(key.startswith(f"{name}_") for key in outputs)
        return tuple(outputs[f"{name}_{k}"] for k in range(count))

    tokens, image = scales("tokens"), outputs["image"]
    return Observation(scales("logits"), scales("saliency"), tokens, outputs["f_hat"], image, tokens, image)


def _write(stem: Path, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
    from polygraphy.comparator import RunResults
    from polygraphy.json import save_json

    results = RunResults()
    results.add([outputs], runner_name=RUNNER)
    with _quiet():
        save_json([inputs], f"{stem}.inputs.json", "inputs")
        results.save(f"{stem}.outputs.json")


def _quiet() -> AbstractContextManager[None]:
    """Polygraphy tells on stdout what it reads and writes, where our figures go."""
    from polygraphy.logger import G_LOGGER

    quiet: AbstractContextManager[None] = G_LOGGER.verbosity(G_LOGGER.CRITICAL)
    return quiet


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder} is no record ({error}): make one with compare --save") from None
    if not (isinstance(record, dict) and isinstance(record.get("batches"), int) and "facts" in record):
        raise ExportError(f"{folder / RECORD} is no record: make one with compare --save")
    return record
