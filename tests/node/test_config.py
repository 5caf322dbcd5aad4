"""node.toml: what is refused, what wins, and that the origin of each value is known."""

import re
from pathlib import Path

import msgspec
import pytest

from atpar.ledger.genesis import GenesisParams
from atpar.node.config import (
    MAX_CONFIG_BYTES,
    ConfigInvalid,
    NodeConfig,
    NodeSection,
    compute_timing,
    load_config,
    render_config,
)

MINIMAL = '[node]\nparticipant = "ALFA"\n'

PARAMS = GenesisParams(
    max_window_ms=86_400_000,
    tx_id_retention_ms=30 * 86_400_000,
    max_block_bytes=4 * 1024 * 1024,
    max_block_transactions=10_000,
    epoch_blocks=1_000,
    block_interval_ms=50,
    heartbeat_ms=5_000,
    delta_ms=200,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def load_text(folder: Path, text: str, **environment: str):
    return load_config(write(folder, text), environment=environment)


def refuse(folder: Path, text: str, field: str, *parts: str, **environment: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_text(folder, text, **environment)
    assert caught.value.field == field
    for part in parts:
        assert part in str(caught.value)


def test_minimal_file_gives_defaults_with_absolute_paths(tmp_path):
    loaded = load_text(tmp_path, MINIMAL)
    config = loaded.config
    assert config.node.participant == "ALFA"
    assert config.node.genesis == tmp_path / "genesis.json"
    assert config.votes_journal == tmp_path / "data" / "votes.journal"
    assert config.keys.vote == str(tmp_path / "keys" / "vote.key")
    assert config.api.listen.startswith("127.0.0.1:")
    assert config.log.file is None
    assert loaded.home == tmp_path


def test_absolute_paths_and_signer_addresses_stay(tmp_path):
    text = MINIMAL + 'data = "/srv/atpar"\n[keys]\nvote = "pkcs11:token=alfa"\n'
    config = load_text(tmp_path, text).config
    assert config.node.data == Path("/srv/atpar")
    assert config.keys.vote == "pkcs11:token=alfa"


def test_precedence_is_flag_environment_file_default(tmp_path):
    path = write(tmp_path, MINIMAL + '[api]\nlisten = "127.0.0.1:1"\nmax_wait_ms = 7\n')
    loaded = load_config(
        path,
        environment={
            "ATPAR_API__LISTEN": "127.0.0.1:2",
            "ATPAR_API__MAX_CONNECTIONS": "12",
            "ATPAR_NODE__DATA": "123",
            "ATPAR_NODE": "not a key",
            "PATH": "/bin",
        },
        flags={"api.listen": "127.0.0.1:3", "network.listen": None},
    )
    assert loaded.config.api.listen == "127.0.0.1:3"
    assert loaded.config.api.max_wait_ms == 7
    assert loaded.config.api.max_connections == 12
    assert loaded.config.node.data == tmp_path / "123"
    assert loaded.origins["api.listen"] == "flag --api-listen"
    assert loaded.origins["api.max_wait_ms"] == "node.toml"
    assert loaded.origins["api.max_connections"] == "environment ATPAR_API__MAX_CONNECTIONS"
    assert loaded.origins["network.listen"] == "default"


def test_environment_can_set_every_kind_of_value(tmp_path):
    loaded = load_text(
        tmp_path,
        "",
        ATPAR_NODE__PARTICIPANT="BRVO",
        ATPAR_NETWORK__PEERS='{"ALFA": "10.0.0.1:7201"}',
        ATPAR_VERIFIER__WORKERS="0",
        ATPAR_LOG__FILE="logs/node.log",
    )
    assert loaded.config.node.participant == "BRVO"
    assert loaded.config.network.peers == {"ALFA": "10.0.0.1:7201"}
    assert loaded.config.verifier.count_workers() == 0
    assert loaded.config.log.file == tmp_path / "logs" / "node.log"


def test_describe_names_every_key_once_with_its_origin(tmp_path):
    rows = list(load_text(tmp_path, MINIMAL).describe())
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys))
    assert ("node.participant", "ALFA", "node.toml") in rows
    assert all(origin in {"node.toml", "default"} for _, _, origin in rows)


def test_unknown_keys_are_refused_by_name(tmp_path):
    refuse(tmp_path, MINIMAL + '[api]\nlistn = "x:1"\n', "api.listn", "unknown", "`listen`")
    refuse(tmp_path, MINIMAL + "[apii]\na = 1\n", "apii", "unknown section", "`api`")
    refuse(tmp_path, 'participant = "ALFA"\n', "participant", "outside a section")
    refuse(tmp_path, MINIMAL, "api.listn", "ATPAR_API__LISTN", ATPAR_API__LISTN="x:1")
    refuse(tmp_path, MINIMAL, "foo.bar", "unknown section", ATPAR_FOO__BAR="1")


def test_wrong_types_and_ranges_name_the_key(tmp_path):
    refuse(tmp_path, MINIMAL + '[api]\nmax_wait_ms = "5"\n', "api.max_wait_ms", "int")
    refuse(tmp_path, MINIMAL + "[api]\nmax_wait_ms = 0\n", "api.max_wait_ms")
    refuse(tmp_path, MINIMAL + '[api]\nlisten = "7101"\n', "api.listen")
    refuse(tmp_path, MINIMAL + '[api]\nlisten = "h:70000"\n', "api.listen", "70000", "65535")
    refuse(tmp_path, MINIMAL + "data = 5\n", "node.data")
    refuse(tmp_path, '[node]\nparticipant = "alfa"\n', "node.participant")
    refuse(tmp_path, "", "node", "participant")
    refuse(tmp_path, MINIMAL, "verifier.workers", ATPAR_VERIFIER__WORKERS="many")
    refuse(tmp_path, MINIMAL + '[network]\npeers = { ALFA = "x" }\n', "network.peers[...]")


@pytest.mark.parametrize("tables", [0, 4096])
def test_tables_of_keys_reach_their_limits(tmp_path, tables):
    loaded = load_text(tmp_path, MINIMAL + f"[verifier]\nkey_tables = {tables}\n")
    assert loaded.config.verifier.key_tables == tables


@pytest.mark.parametrize("tables", [-1, 4097])
def test_tables_of_keys_do_not_pass_their_limits(tmp_path, tables):
    refuse(tmp_path, MINIMAL + f"[verifier]\nkey_tables = {tables}\n", "verifier.key_tables")


def test_contradicting_values_are_refused_with_both(tmp_path):
    refuse(
        tmp_path,
        MINIMAL + "[network]\nreconnect_min_ms = 9000\n",
        "network.reconnect_min_ms",
        "9000",
        "network.reconnect_max_ms, 1000",
    )
    refuse(
        tmp_path,
        MINIMAL + "[network]\nping_interval_ms = 15000\n",
        "network.ping_interval_ms",
        "15000 is not below network.idle_timeout_ms, 15000",
    )
    refuse(
        tmp_path,
        MINIMAL + '[network]\nlisten = "127.0.0.1:7101"\n',
        "api.listen",
        "also network.listen",
    )


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_config(tmp_path / "absent.toml", environment={})
    refuse(tmp_path, "[node", str(tmp_path / "node.toml"), "not valid TOML")
    refuse(tmp_path, "#" * (MAX_CONFIG_BYTES + 1), str(tmp_path / "node.toml"), "at most")
    assert load_text(tmp_path, MINIMAL + "#" * (MAX_CONFIG_BYTES - len(MINIMAL)))


def test_timing_joins_chain_parameters_and_own_allowances(tmp_path):
    timing = compute_timing(load_text(tmp_path, MINIMAL).config, PARAMS)
    assert timing.leader_timeout_ms == 2 * 200 + timing.build_allowance_ms
    assert timing.advance_timeout_ms == 3 * 200 + timing.verify_allowance_ms
    assert timing.heartbeat_ms == 5_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta_ms": 2_000}, r"2000 is above consensus.retry_ms, 1000"),
        ({"delta_ms": 900}, r"advance timeout: 3300 is not below consensus.skip_timeout_ms, 3000"),
        ({"block_interval_ms": 700}, r"700 is not below the leader timeout, 700"),
    ],
)
def test_timing_refuses_contradictions_with_the_chain(tmp_path, change, message):
    config = load_text(tmp_path, MINIMAL).config
    with pytest.raises(ConfigInvalid, match=re.escape(message).replace(r"\ ", " ")):
        compute_timing(config, msgspec.structs.replace(PARAMS, **change))


def test_rendered_configuration_reads_back_the_same(tmp_path):
    text = MINIMAL + (
        '[network]\nlisten = "0.0.0.0:7201"\npeers = { BRVO = "10.0.0.2:7201" }\n'
        '[verifier]\nworkers = 0\n[log]\nfile = "logs/a \\"b\\".log"\n'
    )
    first = load_text(tmp_path, text).config
    again = load_text(tmp_path, render_config(first)).config
    assert again == first


def test_rendered_configuration_holds_only_what_differs_from_defaults():
    text = render_config(NodeConfig(node=NodeSection(participant="ALFA")))
    assert text.endswith('\n[node]\nparticipant = "ALFA"\n')
    assert "api" not in text.splitlines()
