"""Which messages are kept, and how a callback becomes one of the library."""

from hieramp.runtime.tensorrt.messages import Messages, bound


class Base:
    def __init__(self) -> None:
        self.prepared = True


def test_a_callback_is_one_of_the_library() -> None:
    messages = bound(Messages, Base)(("error",))
    assert messages.prepared and messages.reason == "no reason given"
    assert isinstance(messages, Messages)


def test_errors_are_kept() -> None:
    messages = Messages(("internal", "error"))
    for severity in ("info", "error", "warning", "internal"):
        messages.log(severity, f"an {severity}")
    assert messages.errors == ["an error", "an internal"]
    assert messages.reason == "an error"
