"""Score a folder of digits that somebody else drew."""

from .folder import read
from .measure import Instrument

__all__ = ["Instrument", "read"]
