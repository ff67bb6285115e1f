"""The one error a user's own mistake raises, at any floor."""


class UserError(Exception):
    """A mistake the user can mend. Its text is one line: what is wrong, where, and what to do.

    The command line prints it without a traceback (unless ``--debug``) and exits with code 2.
    """
