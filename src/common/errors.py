"""Errors that the user can mend, and warnings. Any other exception is a bug of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Says which file or key is wrong, what was expected and found, and the way out.

    Shown without a traceback.
    """


class Caution(UserWarning):
    """Says which result means less than it seems, and why. Shown as one line."""


@contextmanager
def user_errors(prefix: str) -> Iterator[None]:
    """Turn a ValueError of the block into a UserError that starts with `prefix`.

    For calls into src/diffusion, which knows no files or keys and raises ValueError alone.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{prefix}{error}") from None
