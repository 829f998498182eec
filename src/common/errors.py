"""Errors that the user can fix, and warnings. Any other exception is a bug in this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2000  # characters of a message


def printable(text: str) -> str:
    """`text` that is safe to print: control characters escaped, a long middle left out.

    Messages quote files, whose text could move the cursor of a terminal or fill it.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class UserError(ValueError):
    """An error that the user can fix. The stages show it without a traceback.

    Its message names the wrong file or key, the expected and the actual value, and what to do. It
    is printable.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class Caution(UserWarning):
    """A warning that a result means less than it seems, and why. The stages show it as one line."""


@contextmanager
def user_errors(prefix: str) -> Iterator[None]:
    """Turn a ValueError raised in the block into a UserError that starts with `prefix`.

    Use it around calls into src/diffusion, which knows no files or keys and only raises ValueError.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{prefix}{error}") from None
