"""Files that commands read and write: bounded when read, whole or absent when written."""

import os
import secrets
from pathlib import Path
from typing import Final

from atpar.cli.errors import ConfigurationProblem, WrongUsage

MAX_INPUT_BYTES: Final = 64 * 1024 * 1024


class FileTooLong(WrongUsage):
    """A file is longer than what it is read as can be."""


def read_input(path: Path, *, max_bytes: int = MAX_INPUT_BYTES) -> bytes:
    """Return a file's bytes.

    Raises:
        WrongUsage: it cannot be read, or is longer than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise WrongUsage(f"{path}: {error.strerror}", advice="check the file's name") from error
    if len(data) > max_bytes:
        raise FileTooLong(f"{path}: longer than {max_bytes} bytes", advice="check the file's name")
    return data


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not be there yet.

    Raises:
        WrongUsage: something is already there.
        ConfigurationProblem: the folder cannot be written to.
    """
    try:
        _write_temporary(path, data, mode=mode, replace=False)
    except FileExistsError as error:
        raise WrongUsage(f"{path} is already there", advice="choose another name") from error
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_over(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file, replacing what is there in one step.

    Raises:
        ConfigurationProblem: the folder cannot be written to.
    """
    try:
        _write_temporary(path, data, mode=mode, replace=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _write_temporary(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> ConfigurationProblem:
    return ConfigurationProblem(
        f"{path}: cannot be written: {error.strerror}", advice="check folder and free space"
    )
