"""Free ports for a testnet: a block of neighbours that no other testnet claims or uses.

A port that is free now may be the port of another testnet's validator that was just killed and is
about to return. So each testnet claims its block with a file for as long as its folder says that
it lives; and the ports are also tried, because other programs use ports too.
"""

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
FIRST_BASE: Final = 7_100
"""The block a first testnet gets: API at 7101, 7102, …, validator network at 7201, 7202, …"""
BLOCK: Final = 200
NETWORK_OFFSET: Final = 100
RANDOM_BASES: Final = range(10_000, 30_000, BLOCK)
"""Below the range from which systems draw ports for outgoing connections."""
ATTEMPTS: Final = 200
STARTUP_S: Final = 120.0
"""A younger claim holds even before its testnet has written `testnet.json`."""


class NoPortsFree(Exception):
    """No block of ports is free."""


def list_ports(base: int, count: int) -> list[tuple[int, int]]:
    """Return (API port, network port) of each validator of a block."""
    return [(base + i, base + NETWORK_OFFSET + i) for i in range(1, count + 1)]


def claim_ports(count: int, *, owner: Path) -> int:
    """Claim a free block for the testnet in the folder `owner`; return its base.

    The claim holds until `release_ports`, or until the folder has no `testnet.json` any more.

    Raises:
        NoPortsFree: none of the tried blocks is free.
    """
    for base in _list_candidates():
        if _claim(base, owner):
            if all(_is_free(port) for pair in list_ports(base, count) for port in pair):
                return base
            release_ports(base, owner=owner)
    raise NoPortsFree(f"no block of {2 * count} free ports found on {HOST}")


def release_ports(base: int, *, owner: Path) -> None:
    """Give a claim back. Nothing happens if it is not `owner`'s."""
    path = _claim_path(base)
    if _read_owner(path) == owner.resolve():
        path.unlink(missing_ok=True)


def _list_candidates() -> Iterator[int]:
    yield FIRST_BASE
    for _ in range(ATTEMPTS):
        yield RANDOM_BASES[secrets.randbelow(len(RANDOM_BASES))]


def _claim_path(base: int) -> Path:
    folder = Path(tempfile.gettempdir()) / f"atpar-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / str(base)


def _read_owner(path: Path) -> Path | None:
    try:
        return Path(path.read_text())
    except FileNotFoundError:
        return None


def _claim(base: int, owner: Path) -> bool:
    """Try to claim; a claim whose testnet is gone is taken over."""
    path = _claim_path(base)
    if _is_stale(path, owner.resolve()):
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(str(owner.resolve()))
    return True


def _is_stale(path: Path, owner: Path) -> bool:
    holder = _read_owner(path)
    if holder is None or holder == owner or (holder / "testnet.json").exists():
        return False
    try:
        return time.time() - path.stat().st_mtime > STARTUP_S
    except FileNotFoundError:
        return False


def _is_free(port: int) -> bool:
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        # Without SO_REUSEADDR a port in TIME_WAIT would look taken; servers set it too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
