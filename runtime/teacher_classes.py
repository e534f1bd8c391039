"""The proof that a teacher's outputs are the classes of a dataset: its list of names against the plan's."""

from collections.abc import Iterator, Sequence

from hieramp.runtime.catalogue import Catalogue, ClassEntry
from hieramp.runtime.class_spec import normal_word
from hieramp.runtime.errors import TeacherError


def teacher_columns(teacher: str, names: Sequence[str], catalogue: Catalogue,
                    chosen: Sequence[ClassEntry]) -> tuple[int, ...]:
    """The teacher's output for every label, where `chosen` are the classes in the order of the labels.

    A teacher of as many classes as the plan, or as are drawn, must list them in the same order; one of more classes
    must name each of them exactly once. Raises TeacherError naming the first class that differs.
    """
    if len(names) == len(catalogue.entries):
        _check_order(teacher, names, catalogue.entries, "the plan")
        return tuple(entry.index for entry in chosen)
    if len(names) == len(chosen):
        _check_order(teacher, names, chosen, "the dataset")
        return tuple(range(len(chosen)))
    return tuple(_find_all(teacher, names, chosen))


def _check_order(teacher: str, names: Sequence[str], entries: Sequence[ClassEntry], whose: str) -> None:
    for position, (name, entry) in enumerate(zip(names, entries, strict=True)):
        if normal_word(name) not in _words(entry):
            raise TeacherError(f"teacher {teacher} is of other classes, or has them in another order: its class "
                               f"{position} is {name!r}, that of {whose} {entry.folder!r} ({entry.name}); give a "
                               "teacher whose outputs have the order of classes.json")


def _find_all(teacher: str, names: Sequence[str], chosen: Sequence[ClassEntry]) -> Iterator[int]:
    words = [normal_word(name) for name in names]
    for entry in chosen:
        # The folder first: names may be those of two classes, as ImageNet's crane is.
        found = ([column for column, word in enumerate(words) if word == normal_word(entry.folder)]
                 or [column for column, word in enumerate(words) if word in _words(entry)])
        if len(found) != 1:
            raise TeacherError(f"teacher {teacher} knows class {entry.folder!r} ({entry.name}) "
                               f"{'not at all' if not found else f'{len(found)} times'} among its {len(names)}; its "
                               "list must name every class that is drawn once, best by its folder's name")
        yield found[0]


def _words(entry: ClassEntry) -> set[str]:
    """What a list may call a class: its folder, its name, or all its names as ImageNet's lists have them."""
    return {normal_word(word) for word in (entry.folder, entry.name, ", ".join((entry.name, *entry.aliases)))}
