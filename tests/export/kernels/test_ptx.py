"""What is read from PTX, and the parameters that are cut off, on texts written by hand."""

import pytest

from hieramp.export.kernels.errors import KernelError
from hieramp.export.kernels.ptx import entry, threads, version, without_added_pointers

TEXT = """//
.version 9.4
.target sm_90a
.visible .entry copy(
	.param .u64 .ptr .global .align 1 copy_param_0,
	.param .u32 copy_param_1,
	.param .u64 .ptr .global .align 1 copy_param_2,
	.param .u64 .ptr .global .align 1 copy_param_10
)
.reqntid 128
{
	ld.param.b64 	%rd1, [copy_param_0];
	ld.param.b32 	%r1, [copy_param_1];
	ld.param.b64 	%rd2, [copy_param_2];
	ret;
}
"""


def test_what_is_read() -> None:
    kernel = entry(TEXT)
    assert (kernel.name, kernel.kinds) == ("copy", ("u64", "u32", "u64", "u64"))
    assert [parameter.name for parameter in kernel.parameters] == [f"copy_param_{i}" for i in (0, 1, 2, 10)]
    assert (threads(TEXT), version(TEXT)) == (128, 94)


def test_an_added_pointer_that_nothing_reads_is_cut_off() -> None:
    cut = without_added_pointers(TEXT, ("u64", "u32", "u64"))
    assert cut == TEXT.replace(",\n\t.param .u64 .ptr .global .align 1 copy_param_10", "")


def test_nothing_is_cut_off_where_nothing_was_added() -> None:
    assert without_added_pointers(TEXT, ("u64", "u32", "u64", "u64")) == TEXT


@pytest.mark.parametrize(("text", "kinds", "message"), [
    (TEXT, ("u64", "u64", "u64"), "copy takes u64, u32, u64, u64 where u64, u64, u64 are passed"),
    (TEXT, ("u64",) * 5, "copy takes u64, u32, u64, u64 where"),
    (TEXT, ("u64", "u32"), "copy uses copy_param_2, which the compiler added"),
    (TEXT, ("u64",), "copy uses copy_param_1, copy_param_2, which"),
    (TEXT.replace("copy_param_2,\n", "copy_param_2,\n\t.param .u32 more,\n"), ("u64", "u32", "u64"), "copy uses more"),
    (TEXT.replace(".visible", ""), ("u64",), "has 0 kernels"),
    (TEXT + TEXT, ("u64",), "has 2 kernels"),
])
def test_what_cannot_be_passed_is_refused(text: str, kinds: tuple[str, ...], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        without_added_pointers(text, kinds)
