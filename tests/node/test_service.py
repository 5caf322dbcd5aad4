"""The assembled node: it runs, answers, stops in order, and refuses to start when it must not."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from atpar.cli.testnet.lifecycle import prepare
from atpar.cli.testnet.network import make_command, stop_network
from atpar.cli.testnet.record import PASSPHRASE, load_record
from atpar.ledger.errors import GenesisInvalid
from atpar.node.config import NodeConfig
from atpar.node.errors import (
    AddressUnavailable,
    IdentityInvalid,
    JournalMissing,
    NodeError,
    StartRefused,
    StoreLocked,
    StoreMismatch,
    StoreMissing,
)
from atpar.node.framing import Channel
from atpar.node.gateway import NodeState
from atpar.node.keystore import LOCAL_LOG2_N, create_seed, write_key
from atpar.node.peers import Received
from tests.node.services import (
    expect_refusal,
    load_home,
    prepared_folder,
    running_nodes,
    start,
    wait_ready,
)
from tests.patience import DEADLINE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("testnet")
    with prepared_folder(path):
        yield path


@pytest.fixture
def configs(folder: Path) -> list[NodeConfig]:
    return [load_home(folder / f"v{index}") for index in range(1, 5)]


def alone(config: NodeConfig) -> NodeConfig:
    """Return the configuration with ports that cannot be in use."""
    network = msgspec.structs.replace(config.network, listen="127.0.0.1:0")
    api = msgspec.structs.replace(config.api, listen="127.0.0.1:0")
    return msgspec.structs.replace(config, network=network, api=api)


async def test_four_nodes_agree_and_stop_in_order(configs: list[NodeConfig]) -> None:
    async with running_nodes(configs) as nodes:
        for node in nodes:
            await node.wait(lambda node=node: node.height >= 2)
        headers = [node.handle.gateway.reader.get_header(2) for node in nodes]
        assert headers[0] is not None
        assert all(header == headers[0] for header in headers)
        for node in nodes:
            await node.stop()


async def test_node_alone_answers_and_says_what_it_waits_for(configs: list[NodeConfig]) -> None:
    async with running_nodes([alone(configs[0])]) as (node,):
        assert (await node.get("/health/live")).status_code == 200
        assert (await node.get("/health/ready")).status_code == 503
        status = (await node.get("/v1/status")).json()
        assert status["state"] == "catching_up"
        assert "connected to 1 of 4 validators, needs 3" in status["detail"]
        peers = (await node.get("/v1/peers")).json()["peers"]
        assert [peer["participant"] for peer in peers] == ["BRVO", "CHRL", "DLTA"]
        assert "atpar_height" in (await node.get("/metrics")).text
        await node.stop()


async def test_node_that_returns_catches_up(configs: list[NodeConfig]) -> None:
    async with trio.open_nursery() as nursery:
        nodes = [await start(nursery, config) for config in configs[:3]]
        for node in nodes:
            await wait_ready(node)
        await nodes[0].wait(lambda: nodes[0].height >= 1)
        target = nodes[0].height
        late = await start(nursery, configs[3])
        await wait_ready(late)
        await late.wait(lambda: late.height >= target)
        assert late.handle.gateway.reader.get_header(target) == nodes[
            0
        ].handle.gateway.reader.get_header(target)
        nursery.cancel_scope.cancel()


async def test_stopped_node_starts_again_where_it_was(configs: list[NodeConfig]) -> None:
    config = alone(configs[0])
    heights = []
    for _ in range(2):
        async with running_nodes([config]) as (node,):
            heights.append(node.height)
            await node.stop()
    assert heights[0] == heights[1]


async def test_store_in_use_is_refused(configs: list[NodeConfig]) -> None:
    async with running_nodes([alone(configs[0])]) as (node,):
        with pytest.raises(StoreLocked):
            await expect_refusal(alone(configs[0]))
        assert (await node.handle.gateway.status()).state is NodeState.CATCHING_UP


@pytest.mark.parametrize("section", ["network", "api"])
async def test_port_in_use_is_refused_by_name(configs: list[NodeConfig], section: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    config = alone(configs[0])
    taken = msgspec.structs.replace(getattr(config, section), listen=f"127.0.0.1:{port}")
    with pytest.raises(AddressUnavailable, match=rf"{section}\.listen 127\.0\.0\.1:{port}"):
        await expect_refusal(msgspec.structs.replace(config, **{section: taken}))
    await listener.aclose()


async def test_participant_without_a_seat_is_refused(configs: list[NodeConfig]) -> None:
    section = msgspec.structs.replace(configs[0].node, participant="NOBODY")
    with pytest.raises(StartRefused, match="neither a validator nor an observer"):
        await expect_refusal(msgspec.structs.replace(configs[0], node=section))


async def test_vote_key_that_is_not_registered_is_refused(
    configs: list[NodeConfig], tmp_path: Path
) -> None:
    path = tmp_path / "vote.key"
    write_key(path, seed=create_seed(), passphrase=PASSPHRASE, log2_n=LOCAL_LOG2_N)
    keys = msgspec.structs.replace(configs[0].keys, vote=str(path))
    with pytest.raises(StartRefused, match="put the registered vote key in place"):
        await expect_refusal(msgspec.structs.replace(configs[0], keys=keys))


async def test_leaf_of_another_bank_is_refused(configs: list[NodeConfig]) -> None:
    keys = msgspec.structs.replace(configs[0].keys, tls_certificate=configs[1].keys.tls_certificate)
    with pytest.raises(IdentityInvalid, match="root of BRVO, not by the root of ALFA"):
        await expect_refusal(msgspec.structs.replace(configs[0], keys=keys))


async def test_missing_genesis_store_and_journal_are_refused(
    configs: list[NodeConfig], tmp_path: Path
) -> None:
    config = alone(configs[0])
    nowhere = msgspec.structs.replace(config.node, genesis=tmp_path / "genesis.json")
    with pytest.raises(GenesisInvalid, match="cannot be read"):
        await expect_refusal(msgspec.structs.replace(config, node=nowhere))
    empty = msgspec.structs.replace(config.node, data=tmp_path)
    with pytest.raises(StoreMissing, match="atpar node init"):
        await expect_refusal(msgspec.structs.replace(config, node=empty))
    journal = config.votes_journal
    journal.rename(journal.with_suffix(".away"))
    try:
        with pytest.raises(JournalMissing) as refusal:
            await expect_refusal(config)
        assert refusal.value.exit_code == 8
    finally:
        journal.with_suffix(".away").rename(journal)


async def test_data_of_another_chain_is_refused(configs: list[NodeConfig], tmp_path: Path) -> None:
    prepare(tmp_path, validators=4)
    try:
        other = load_home(tmp_path / "v1")
        mixed = msgspec.structs.replace(other.node, data=configs[0].node.data)
        with pytest.raises(StoreMismatch, match=re.compile("chain", re.IGNORECASE)):
            await expect_refusal(msgspec.structs.replace(other, node=mixed))
    finally:
        stop_network(tmp_path, load_record(tmp_path))


async def test_failing_part_ends_the_node_with_its_own_error(configs: list[NodeConfig]) -> None:
    """Whatever nurseries wrap around it, the caller sees the error and its exit code."""

    class Broken(NodeError):
        exit_code = 8

    def fail(*_: object, **__: object) -> None:
        raise Broken("as if the journal's fsync had failed")

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            node = await start(nursery, alone(configs[0]))
            node.handle.gateway._validator.handle = fail  # type: ignore[method-assign]
            node.handle.network.inbox.offer(Received("BRVO", Channel.VOTES, b""))
            with trio.fail_after(DEADLINE_S):
                await node.ended.wait()

    with pytest.RaisesGroup(Broken):
        await run()


def test_sigterm_ends_the_process_with_code_zero(folder: Path) -> None:
    command = make_command("node", "run", "--home", str(folder / "v1"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = folder / "v1" / "logs" / "node.log"
    offset = log.stat().st_size if log.exists() else 0
    try:
        wait_for_line(process, log, offset, '"event":"node runs"')
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()
    assert '"event":"node stopped"' in log.read_text()[offset:]


def wait_for_line(process: subprocess.Popen[str], log: Path, offset: int, text: str) -> None:
    """Wait for a log line; a process that ended instead fails the test with what it said."""
    for _ in range(int(DEADLINE_S / 0.05)):
        if log.exists() and text in log.read_text()[offset:]:
            return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate())
    raise AssertionError(f"no {text} within {DEADLINE_S} s")
