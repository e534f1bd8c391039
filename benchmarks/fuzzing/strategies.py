"""Hostile values for every kind of file that the runtime reads, as hypothesis strategies."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

# What a name must never be able to do: leave its folder, name a device, obey a terminal, or be none at all.
NAMES = (
    "..", ".", "", "/", "../../canary", "/etc/passwd", "a/../../canary", "..\\canary", "C:\\canary", "~", "$HOME",
    "-rf", "\0", "a\0b", "\n", "a\nb", "\x1b[2J", "\x1b]0;owned\x07", "\r", "\u202egnp.exe", "\ud800", "\x7f",
    "\x9b31m", "canary", "elsewhere", "data", "dataset.json", "classes.json", "README.md", "contact_sheet.png",
    "manifest.json", "shard-00000-of-00002.json", "CON", "nul.png", "x" * 300, "é" * 150, "\U0001f600" * 90,
    "e\u0301", "\u00e9", "K", "\u212a", "0001_ant", "ant", "ANT", "*", "[0-9]*", "%s%n", "{0}", "<script>", "](x)", "|",
    "`", "---", " ", "a.", ".hidden", "a" * 5000,
)
NUMBERS = (0, 1, -1, 2, 3, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63, 1 << 64,
           -(1 << 63), 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))

_controls = st.text(st.characters(categories=["Cc", "Cf", "Cs"]), max_size=4)
texts = st.one_of(st.sampled_from(NAMES), st.text(max_size=12), _controls)
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=4),
                                                       st.dictionaries(texts, inner, max_size=4)), max_leaves=8)


def nested(depth: int) -> list[Any]:
    """A list in a list, so many deep."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def mutated(draw: Draw, valid: Any) -> Any:
    """A copy of a valid JSON value in which up to four places are replaced, removed, renamed or added to."""
    value = json.loads(json.dumps(valid))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        value = _changed(draw, value)
    return value


def _changed(draw: Draw, value: Any) -> Any:
    """Walk down to a random place and change it there."""
    inner: list[Any] = list(range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ())
    if not inner or draw(st.integers(0, 7)) == 0:
        return draw(st.one_of(values, st.just([value]), st.just({"": value})))
    key = draw(st.sampled_from(inner))
    action = draw(st.integers(0, 7))
    if action == 0:
        del value[key]
    elif action == 1 and isinstance(value, dict):
        value[draw(texts)] = draw(st.one_of(values, st.just(value[key])))
    elif action == 2 and isinstance(value, list):
        value.extend([value[key]] * draw(st.sampled_from((1, 2, 63, 300))))
    else:
        value[key] = _changed(draw, value[key])
    return value


@st.composite
def json_texts(draw: Draw, valid: Any) -> str:
    """The text of a mutated value, now and then no JSON, with a key twice, or nested without end."""
    kind = draw(st.integers(0, 15))
    text = json.dumps(draw(mutated(valid)) if kind < 13 else valid, ensure_ascii=draw(st.booleans()))
    if kind == 13:
        begin, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 40))
        return text[:begin] + draw(st.text(max_size=8)) + text[begin + cut:]
    if kind == 14 and text.startswith("{"):
        return "{" + json.dumps(draw(texts)) + ": 1, " + text[1:-1] + ", " + text[1:]
    if kind == 15:
        depth = draw(st.sampled_from((10, 900, 990, 100_000)))
        return draw(st.sampled_from(("[" * depth, '{"a":' * depth, "[" * depth + "]" * depth, "\ufeff" + text,
                                     "9" * 5000, '"' + "a" * 100_000, "-" * depth)))
    return text


def file_bytes(valid: Any) -> st.SearchStrategy[bytes]:
    """The bytes of such a text, or any bytes."""
    encoded = json_texts(valid).map(lambda text: text.encode(errors="surrogatepass"))
    return st.one_of(encoded, encoded, encoded, st.binary(max_size=64))


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file cut short, with bytes changed, or with something put in; or no such file at all."""
    place = st.integers(0, len(whole))
    spliced = st.tuples(place, st.integers(0, 16), st.binary(max_size=16))
    return st.one_of(
        spliced.map(lambda s: whole[:s[0]] + s[2] + whole[s[0] + s[1]:]),
        place.map(lambda cut: whole[:cut]), st.binary(max_size=64), st.just(whole), st.just(b""),
    )


@st.composite
def safetensors_files(draw: Draw, shapes: dict[str, Sequence[int]], data: bytes) -> bytes:
    """A weight file whose header lies about types, shapes, offsets or its own length."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    kinds = st.sampled_from(("F32", "F64", "F16", "BF16", "I8", "F8_E4M3", "BOOL", "U64", "X"))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(shapes)))
        field = draw(st.sampled_from(("dtype", "shape", "data_offsets")))
        header[name][field] = draw(kinds) if field == "dtype" else draw(
            st.lists(st.sampled_from([n for n in NUMBERS if isinstance(n, int)]), max_size=4))
    changed = draw(st.one_of(st.just(header), mutated(header)))
    text = json.dumps(changed, ensure_ascii=True).encode()
    length = draw(st.one_of(st.just(len(text)), st.just(len(text)), st.just(len(text)),
                            st.sampled_from((0, 1, 8, 1 << 20, 100_000_001, (1 << 63) - 1, (1 << 64) - 1))))
    return length.to_bytes(8, "little") + text + data[:draw(st.sampled_from((len(data), len(data), len(data), 0, 7)))]
