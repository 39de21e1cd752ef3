"""Errors that a user can act on. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class Error(Exception):
    """Base of every error that pushforward raises on purpose. The command line prints it and exits with 1."""


class InputError(Error, ValueError):
    """An argument, option or file has a value that cannot be used."""


class UndefinedError(Error, ValueError):
    """The quantity asked for does not exist for this path, law or coupling."""


class NonFiniteError(Error, ArithmeticError):
    """A loss, gradient or sample became NaN or infinite."""


class DivergenceError(Error, ArithmeticError):
    """Training has left what it had learned."""


class ConvergenceError(Error, ArithmeticError):
    """An iteration did not reach its tolerance."""


class CheckpointError(Error, RuntimeError):
    """A saved run or model is missing, damaged, or belongs to something else."""


class DataError(Error, ValueError):
    """A data set is missing, unreadable or inconsistent."""


class OutOfMemoryError(Error, MemoryError):
    """The memory of the machine or of its device does not hold what a step takes."""
