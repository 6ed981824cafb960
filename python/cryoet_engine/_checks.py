# SPDX-License-Identifier: MIT
"""Errors a user can act on, in one form: where, what was wrong, expected, got, what to do."""

from __future__ import annotations


class CryoETError(Exception):
    """An error with a message for the user. The command line prints it as one line, without a traceback."""


class InputError(CryoETError, ValueError):
    """A wrong argument or wrong data."""


class FileFormatError(CryoETError, OSError):
    """A file that is not what it claims to be, or that this version cannot read."""


class MissingDependencyError(CryoETError, ImportError):
    """Something that has to be installed first; the message says how."""


def message(where: str, what: str, *, expected: object, got: object, fix: str = "") -> str:
    """The one form of message: `where: what: expected ..., got ...; fix`."""
    text = f"{where}: {what}: expected {expected}, got {got}"
    text += f"; {fix}" if fix else ""
    return " ".join(text.split())


def input_error(where: str, what: str, *, expected: object, got: object, fix: str = "") -> InputError:
    """Build (not raise) an InputError in the common form."""
    return InputError(message(where, what, expected=expected, got=got, fix=fix))


def file_error(path: object, what: str, *, expected: object, got: object, fix: str = "") -> FileFormatError:
    """Build (not raise) a FileFormatError in the common form; `where` is the file."""
    return FileFormatError(message(str(path), what, expected=expected, got=got, fix=fix))
