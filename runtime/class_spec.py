"""The --classes language: a count, ids and ranges, names, WordNet ids, subsets or a file, to class ids."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from hieramp.runtime.bounds import CLASS_FILE_BYTES, NAME_LENGTH
from hieramp.runtime.catalogue import Catalogue, ClassEntry
from hieramp.runtime.errors import ClassSpecError
from hieramp.runtime.json_file import read_bounded
from hieramp.runtime.terminal import shown

SPEC_HELP = (
    "A count (100: the first hundred classes), or a comma-separated list of ids and ranges (3,17,40-49; one id alone "
    "is '3,'), names (airplane,golden retriever), WordNet ids (n02102040) and, for ImageNet, subsets (imagenette, "
    "imagewoof, imagenet100), or @FILE with such items one a line and # for comments."
)
_COUNT, _RANGE = re.compile(r"[0-9]{1,9}"), re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


def select_classes(spec: str | None, catalogue: Catalogue) -> tuple[ClassEntry, ...]:
    """The classes a SPEC names, each once, in the model's order; all of them where it is None.

    Raises ClassSpecError naming the item at fault, with close matches where a name is unknown.
    """
    if spec is None:
        return catalogue.entries
    chosen = sorted(_chosen_ids(spec.strip(), catalogue))
    if not chosen:
        raise ClassSpecError(f"--classes {shown(spec)} names no class; {_range_of(catalogue)}")
    return tuple(catalogue.entries[index] for index in chosen)


def _chosen_ids(spec: str, catalogue: Catalogue) -> set[int]:
    if _COUNT.fullmatch(spec):
        return set(range(_checked_count(int(spec), catalogue)))
    words = _words(catalogue.entries)
    lines = _file_lines(Path(spec[1:])) if spec.startswith("@") else [spec]
    return {index for item in _items(lines, words) for index in _item_ids(item, catalogue, words)}


def _checked_count(count: int, catalogue: Catalogue) -> int:
    if not 1 <= count <= len(catalogue.entries):
        raise ClassSpecError(f"--classes {count} is no count of classes; {_range_of(catalogue)}, and the id {count} "
                             f"alone is written '{count},'")
    return count


def _file_lines(path: Path) -> list[str]:
    try:
        lines = read_bounded(path, CLASS_FILE_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise ClassSpecError(f"cannot read the class list {path}: {getattr(error, 'strerror', error)}") from None
    return [line.partition("#")[0] for line in lines]


def _items(lines: Iterable[str], words: dict[str, list[int]]) -> Iterator[str]:
    """Split at commas, but for a line that is, commas and all, the name of a class."""
    for line in lines:
        parts = [line] if normal_word(line) in words else line.split(",")
        yield from (part.strip() for part in parts if part.strip())


def _item_ids(item: str, catalogue: Catalogue, words: dict[str, list[int]]) -> Iterable[int]:
    if _COUNT.fullmatch(item):
        return [_checked_id(int(item), catalogue)]
    if bounds := _RANGE.fullmatch(item):
        return _range_ids(int(bounds[1]), int(bounds[2]), catalogue)
    if subset := catalogue.subsets.get(item.lower()):
        return subset
    return [_named_id(item, catalogue, words)]


def _checked_id(index: int, catalogue: Catalogue) -> int:
    if index >= len(catalogue.entries):
        raise ClassSpecError(f"class {index} does not exist; {_range_of(catalogue)}")
    return index


def _range_ids(first: int, last: int, catalogue: Catalogue) -> Iterable[int]:
    if first > last:
        raise ClassSpecError(f"range {first}-{last} of --classes runs backwards; write {last}-{first}")
    return range(first, _checked_id(last, catalogue) + 1)


def _named_id(item: str, catalogue: Catalogue, words: dict[str, list[int]]) -> int:
    found = words.get(normal_word(item), [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClassSpecError(_unknown(item, catalogue, words))
    meanings = ", ".join(f"{catalogue.entries[index].folder} (id {index})" for index in found)
    raise ClassSpecError(f"class {item!r} is ambiguous: it may be {meanings}; give one of these")


def _words(entries: Iterable[ClassEntry]) -> dict[str, list[int]]:
    """Classes every word may mean; a class's first name wins over the synonyms of others."""
    words: dict[str, list[int]] = {}
    for entry in entries:
        words.setdefault(normal_word(entry.name), []).append(entry.index)
    first = frozenset(words)
    for entry in entries:
        for word in {normal_word(alias) for alias in (entry.folder, *entry.aliases)} - first:
            words.setdefault(word, []).append(entry.index)
    return words


def _unknown(item: str, catalogue: Catalogue, words: dict[str, list[int]]) -> str:
    if len(item) > NAME_LENGTH:
        return f"class {shown(item)} does not exist; {_range_of(catalogue)}"
    close = get_close_matches(normal_word(item), words, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else _range_of(catalogue)
    return f"class {item!r} does not exist; {hint}"


def _range_of(catalogue: Catalogue) -> str:
    entries = catalogue.entries
    return (f"the {len(entries)} classes of this plan ({catalogue.scheme}) go from 0 ({entries[0].name}) "
            f"to {len(entries) - 1} ({entries[-1].name})")


def normal_word(word: str) -> str:
    """A word as it is compared: case, underscores and runs of spaces do not count."""
    return " ".join(word.replace("_", " ").casefold().split())
