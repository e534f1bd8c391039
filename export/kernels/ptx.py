"""What a compiled kernel takes, read from its PTX: the name and the parameters of its entry, its threads, its version.

Triton adds two pointers behind a kernel's own parameters, for scratch memory of the whole launch and of a profiler. Its
launcher passes them; any other launcher passes what it knows of, and the driver reads the rest from beyond its list.
"""

import re
from dataclasses import dataclass

from hieramp.export.kernels.errors import check

_ENTRY = re.compile(r"\.visible\s+\.entry\s+(\w+)\(([^)]*)\)")
_PARAMETER = re.compile(r"^\.param\s+\.(\w+)\b.*?(\w+)$", re.DOTALL)
_POINTER = "u64"


@dataclass(frozen=True)
class Parameter:
    """Type in PTX (u64 for a pointer, u32 for an integer), name, and the text that declares it."""

    kind: str
    name: str
    declaration: str


@dataclass(frozen=True)
class Entry:
    """The one kernel of a PTX text."""

    name: str
    parameters: tuple[Parameter, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Type of each parameter, in order."""
        return tuple(parameter.kind for parameter in self.parameters)


def entry(ptx: str) -> Entry:
    """Name and parameters of the kernel; raises KernelError unless there is exactly one."""
    found = _ENTRY.findall(ptx)
    check(len(found) == 1, f"the compiler's PTX has {len(found)} kernels where one is expected")
    name, listed = found[0]
    return Entry(name, tuple(_parameter(text.strip()) for text in listed.split(",") if text.strip()))


def without_added_pointers(ptx: str, kinds: tuple[str, ...]) -> str:
    """The same kernel with the parameters of those kinds alone, those the compiler added being cut off.

    Raises KernelError where the first parameters are of other kinds, and where an added one is no pointer or is used.
    """
    kernel = entry(ptx)
    kept, added = kernel.parameters[:len(kinds)], kernel.parameters[len(kinds):]
    check(tuple(parameter.kind for parameter in kept) == kinds,
          f"{kernel.name} takes {', '.join(kernel.kinds)} where {', '.join(kinds)} are passed")
    used = [p.name for p in added if p.kind != _POINTER or len(re.findall(rf"\b{p.name}\b", ptx)) != 1]
    check(not used, f"{kernel.name} uses {', '.join(used)}, which the compiler added and nobody passes")
    declared = ",\n\t".join(parameter.declaration for parameter in kept)
    return _ENTRY.sub(f".visible .entry {kernel.name}(\n\t{declared}\n)", ptx)


def threads(ptx: str) -> int:
    """Threads of a block, which the kernel was compiled for and a launch has to have."""
    found = re.findall(r"\.reqntid\s+(\d+)", ptx)
    check(len(found) == 1, "the compiler's PTX does not say how many threads a block has")
    return int(found[0])


def version(ptx: str) -> int:
    """Version of the PTX language, as 90 for 9.0; an older driver refuses the text."""
    found = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.MULTILINE)
    check(found is not None, "the compiler's PTX has no version")
    assert found is not None
    return int(found[1]) * 10 + int(found[2])


def _parameter(text: str) -> Parameter:
    found = _PARAMETER.match(text)
    check(found is not None, f"the compiler's PTX has a parameter that cannot be read: {text!r}")
    assert found is not None
    return Parameter(found[1], found[2], text)
