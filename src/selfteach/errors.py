"""What any floor may raise: a user's own mistake, and numbers that have diverged."""


class UserError(Exception):
    """A mistake the user can mend. Its text is one line: what is wrong, where, and what to do.

    The command line prints it without a traceback (unless ``--debug``) and exits with code 2.
    """


class NotFinite(ArithmeticError):
    """Numbers have diverged: NaN or infinite logits, log-probs or losses. A run keeps the batch aside and stops in one
    line."""
