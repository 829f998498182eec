"""Check values from files with pydantic, and describe what is wrong with them."""

from __future__ import annotations

import json
import re
import reprlib
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

MAX_SHOWN = 500  # characters of a value in a message; a short YAML file can have huge values
T = TypeVar("T")


def parse(kind: type[T], values: object) -> T:
    """JSON values as a dataclass or pydantic model `kind`, with strict types.

    Raises ValueError that names the first wrong field. NaN and infinity are no JSON.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values, allow_nan=False), strict=True)
    except ValidationError as error:
        raise ValueError(explain(dict(error.errors()[0]))) from None


def explain(problem: dict, missing: str = "missing") -> str:
    """Describe one of pydantic's errors in one line. `missing` is the text for an absent key."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"{key}: {missing}"
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        if re.match(r"[a-z_]+: ", text):  # the text starts with its key
            return f"{key}.{text}" if key else text
        return f"{key}: {text}" if key else text
    try:
        value = reprlib.repr(problem["input"])
    except ValueError:  # Python does not write out numbers of more than 4,300 digits
        value = "a number with thousands of digits"
    message = problem["msg"]
    text = f"{message[0].lower()}{message[1:]}; found {value[:MAX_SHOWN]}"
    return f"{key}: {text}" if key else text
