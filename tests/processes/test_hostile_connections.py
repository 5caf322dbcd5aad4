"""Strangers and liars on the validator network: dropped, counted, and the node lives."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from atpar.cli.testnet.network import kill_node
from atpar.cli.testnet.processes import wait_until
from atpar.cli.testnet.record import TestnetRecord
from atpar.node.identity import create_identity
from tests.processes.network import read_memory_kib, read_metric, running_network, wait_ready
from tests.processes.payer import choose

DROPPED = "atpar_connections_dropped_total"
GROWTH_KIB = 16 * 1024


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TestnetRecord]]:
    folder = tmp_path_factory.mktemp("network")
    with running_network(folder) as record:
        yield folder, record


def connect(record: TestnetRecord) -> socket.socket:
    host, _, port = record.validators[0].network.partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def wait_dropped(record: TestnetRecord, *, above: float) -> None:
    api = record.validators[0].api
    wait_until(lambda: read_metric(api, DROPPED) > above, what="a dropped connection", timeout_s=20)


def make_context(keys: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(keys / "tls-leaf.pem", keys / "tls-leaf.key")
    return context


def read_to_end(stream: socket.socket) -> None:
    """Read until the other side closes, in whatever way."""
    try:
        while stream.recv(65_536):
            pass
    except (ssl.SSLError, ConnectionError):
        return


def test_garbage_is_dropped_and_counted(network: tuple[Path, TestnetRecord]) -> None:
    _, record = network
    before = read_metric(record.validators[0].api, DROPPED)
    with connect(record) as stream:
        stream.sendall(os.urandom(4096))
        read_to_end(stream)
    wait_dropped(record, above=before)


def test_unregistered_certificate_is_dropped_and_counted(
    network: tuple[Path, TestnetRecord], tmp_path: Path
) -> None:
    _, record = network
    create_identity(tmp_path, "ALFA")
    before = read_metric(record.validators[0].api, DROPPED)
    with (
        connect(record) as plain,
        make_context(tmp_path).wrap_socket(plain) as stream,
    ):
        read_to_end(stream)
    wait_dropped(record, above=before)


def test_frame_that_claims_four_gibibytes_costs_no_memory(
    network: tuple[Path, TestnetRecord],
) -> None:
    folder, record = network
    process = record.validators[0].process
    assert process is not None
    # The liar has a registered certificate: it is validator 4's, which is gone meanwhile.
    kill_node(record, 3)
    before = read_metric(record.validators[0].api, DROPPED)
    memory = read_memory_kib(process.pid)
    with (
        connect(record) as plain,
        make_context(folder / "v4" / "keys").wrap_socket(plain) as stream,
    ):
        stream.sendall(b"\xff\xff\xff\xff" + b"x" * 1024)
        read_to_end(stream)
    wait_dropped(record, above=before)
    assert read_memory_kib(process.pid) < memory + GROWTH_KIB


def test_many_silent_connections_leave_the_node_ready(
    network: tuple[Path, TestnetRecord],
) -> None:
    _, record = network
    streams = [connect(record) for _ in range(50)]
    try:
        wait_ready(choose(record, ["v1"]))
    finally:
        for stream in streams:
            stream.close()
