"""Drawing, encoding and writing at the same time: while a batch is drawn, those before it are encoded and written."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from PIL import Image

from hieramp.runtime.batches import Unit
from hieramp.runtime.cores import usable_cores
from hieramp.runtime.errors import NotFiniteError
from hieramp.runtime.images import png_bytes
from hieramp.runtime.record import Record
from hieramp.runtime.write_behind import WriteBehind
from hieramp.runtime.writers.writer import Encoded, Sink, Writer

_CALLS_BEHIND = 3
_LEAST_ENCODERS, _MOST_ENCODERS = 2, 8  # a thread makes about 100 PNG files of 256 pixels a second, a GPU draws 200


def write_units(writer: Writer, todo: Iterable[Unit], paint: Callable[[int], Sequence[Record]],
                goes_on: Callable[[int, int], bool]) -> None:
    """Draw and write units, in order, drawing in the calling thread.

    `goes_on(batch, pictures)` is asked after every batch; on False the units drawn so far are written, and one that is
    not complete is discarded, as it is when anything fails. Where a picture is not finite the others of its batch are
    written, as far as the layout keeps them, before its error is raised.
    """
    unfinished = deque[Sink](maxlen=_CALLS_BEHIND + 2)  # no unit further back can be unwritten
    try:
        with (ThreadPoolExecutor(encoder_threads(usable_cores()), "hieramp-encode") as encoders,
              WriteBehind(_CALLS_BEHIND) as behind):
            for unit in todo:
                unfinished.append(sink := writer.open(unit))
                for batch in unit.batches:
                    records, error = _painted(paint, batch)
                    behind(_add, sink, [encoders.submit(_encode, record) for record in records])
                    if error or batch == unit.batches[-1]:
                        behind(sink.keep if error else sink.commit)
                    continues = goes_on(batch, len(records))
                    if error:
                        behind.wait()
                        raise error
                    if not continues:
                        return
    finally:
        for sink in unfinished:
            with suppress(OSError):  # a full disk may also refuse the end of the file that is thrown away
                sink.discard()


def encoder_threads(cores: int) -> int:
    """Threads that make PNG files: half of the cores, as far as they are of use."""
    return min(max(_LEAST_ENCODERS, cores // 2), _MOST_ENCODERS)


def _painted(paint: Callable[[int], Sequence[Record]], batch: int) -> tuple[Sequence[Record], NotFiniteError | None]:
    """The pictures of a batch, and the error where that is not all of them."""
    try:
        return paint(batch), None
    except NotFiniteError as error:
        return error.others, error


def _add(sink: Sink, waiting: "Sequence[Future[Encoded]]") -> None:
    sink.add([future.result() for future in waiting])


def _encode(record: Record) -> Encoded:
    png = png_bytes(Image.fromarray(record.image_SS3))
    return Encoded(png, record.entry, record.label, record.index, record.number, record.tokens_L, record.soft_V)
