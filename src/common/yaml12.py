"""Read YAML 1.2 as DVC does, so that both read the same values from params.yaml."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import Node


class _PlainComposer(Composer):
    """Rejects aliases, because with them a few bytes can expand to any size."""

    def compose_node(self, parent: Node | None, index: object) -> Node | None:
        if self.parser.check_event(AliasEvent):
            anchor = self.parser.peek_event().anchor
            raise YAMLError(f"aliases such as *{anchor} are not accepted; write the value out")
        return super().compose_node(parent, index)


def load(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for invalid text, repeated keys and aliases."""
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _PlainComposer
    try:
        return reader.load(io.StringIO(text))
    except (YAMLError, LookupError, AttributeError, ArithmeticError, TypeError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
