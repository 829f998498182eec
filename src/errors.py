"""The one kind of error that is the user's to mend. Everything else that is raised is a bug of ours."""


class UserError(ValueError):
    """Says which file or key is wrong, what was expected, what was found, and the way out. Shown without a traceback."""
