"""What the user is told: the one kind of error that is theirs to mend, and a warning. All else raised is a bug of ours."""


class UserError(ValueError):
    """Says which file or key is wrong, what was expected, what was found, and the way out. Shown without a traceback."""


class Caution(UserWarning):
    """Says which result means less than it seems, and why. Shown as one line."""
