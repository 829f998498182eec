"""Errors that the user can fix, and warnings. Any other exception is a bug in this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """An error that the user can fix. The stages show it without a traceback.

    Its message names the wrong file or key, the expected and the actual value, and what to do.
    """


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
