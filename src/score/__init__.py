"""Score a folder of digits that somebody else drew."""
