"""The node's configuration: `node.toml`, typed, checked, and with the origin of every value known.

A value comes from a flag, else from the environment (`ATPAR_SECTION__KEY`), else from the file,
else from the default written here. Unknown keys are refused by name, and so are timeouts that
contradict each other. What all validators must agree on (delta, block interval, heartbeat) is not
here but in the genesis document; `compute_timing` joins the two and checks their relations.

    [node]                              [api]
    participant = "ALFA"                listen = "127.0.0.1:7101"

    [network]                           [verifier]
    listen = "0.0.0.0:7201"             workers = 1
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from atpar.ledger.genesis import GenesisParams
from atpar.ledger.types import ParticipantCode
from atpar.node.errors import NodeError
from atpar.node.limits import MAX_KEY_TABLES, MEMPOOL_MAX_BYTES, MEMPOOL_MAX_TRANSACTIONS

ENVIRONMENT_PREFIX: Final = "ATPAR_"
SEPARATOR: Final = "__"
DEFAULT_ORIGIN: Final = "default"
MAX_CONFIG_BYTES: Final = 64 * 1024

Listen = Annotated[str, Meta(pattern=r"\A(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}\Z")]
"""host:port; an IPv6 host stands in brackets. Port 0 lets the system choose."""
Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]


class ConfigInvalid(NodeError):
    """The configuration cannot be used. `field` is the key (`api.listen`), or the file."""

    exit_code: ClassVar[int] = 3

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section: unknown keys are refused."""


class NodeSection(Settings, frozen=True):
    """Who this node is and where its files are. Relative paths start at the file's folder."""

    participant: ParticipantCode
    """Code of the institution that runs it; a validator or an observer of the genesis document."""
    genesis: Path = Path("genesis.json")
    data: Path = Path("data")
    """Folder of `chain.db` and `votes.journal`."""
    joins: bool = False
    """Its seat, or its vote key, is registered in a later epoch than its data has reached: it
    follows the chain until then, and votes from the epoch that names it."""
    bootstrap: Path | None = None
    """A proof of the validators of a later epoch, as `/v1/validators?proof=1` gives it: whom to
    connect with, besides those of genesis, until the chain here has reached that epoch."""


class KeysSection(Settings, frozen=True):
    """The keys that the node itself uses. Administrators' keys are never on a node."""

    vote: str = "keys/vote.key"
    """Path of the keystore file of the vote key, or `pkcs11:…` or `remote:…`."""
    next_vote: str | None = None
    """The vote key that takes over in a later epoch, under the same passphrase. Once it has, it
    becomes `vote`."""
    passphrase_file: Path | None = None
    """File whose first line opens the vote key; otherwise environment or prompt."""
    tls_certificate: Path = Path("keys/tls-leaf.pem")
    """Leaf certificate, directly issued by the registered root."""
    tls_key: Path = Path("keys/tls-leaf.key")


class NetworkSection(Settings, frozen=True):
    """The validator network."""

    listen: Listen = "127.0.0.1:7201"
    peers: dict[ParticipantCode, Listen] = {}
    """Addresses that replace those of the genesis document, by participant."""
    handshake_timeout_ms: Milliseconds = 5_000
    reconnect_min_ms: Milliseconds = 100
    reconnect_max_ms: Milliseconds = 1_000
    """Longest pause between two attempts: what a healed line may stay unused."""
    idle_timeout_ms: Milliseconds = 15_000
    """Drop a peer that sends nothing, not even a ping, for this long."""
    ping_interval_ms: Milliseconds = 3_000


class ApiSection(Settings, frozen=True):
    """The HTTP API. The default serves this machine only."""

    listen: Listen = "127.0.0.1:7101"
    max_wait_ms: Milliseconds = 30_000
    """Longest `Prefer: wait`."""
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    access: Path | None = None
    """File with the tokens that open the API's route groups (`docs/api.md`); unset: open to all
    who reach the listener."""


class ConsensusSection(Settings, frozen=True):
    """Local allowances on top of the network delay that the genesis document fixes."""

    build_allowance_ms: Milliseconds = 300
    verify_allowance_ms: Milliseconds = 600
    retry_ms: Milliseconds = 1_000
    max_delta_ms: Milliseconds = 5_000
    """Bound of the back-off."""
    skip_timeout_ms: Milliseconds = 3_000
    """A leader silent for longer counts as inactive."""


class MempoolSection(Settings, frozen=True):
    """Bounds of what waits for a block."""

    max_bytes: Annotated[int, Meta(ge=1_048_576, le=2**34)] = MEMPOOL_MAX_BYTES
    max_transactions: Annotated[int, Meta(ge=1, le=10_000_000)] = MEMPOOL_MAX_TRANSACTIONS
    participant_share_percent: Annotated[int, Meta(ge=1, le=100)] = 50
    """Most of the pool that one institution may fill."""


class VerifierSection(Settings, frozen=True):
    """Signature checking."""

    workers: Annotated[int, Meta(ge=0, le=256)] | None = None
    """Worker processes; 0 checks in line; unset is one less than the cores, at least one."""

    key_tables: Annotated[int, Meta(ge=0, le=4096)] = MAX_KEY_TABLES
    """Keys whose signatures are checked from tables of 300 KB each; 0: by the library alone, and
    no machine code is made, for hashes neither."""

    def count_workers(self) -> int:
        """Return the number of worker processes to start."""
        if self.workers is not None:
            return self.workers
        return max(1, (os.cpu_count() or 1) - 1)


class LogSection(Settings, frozen=True):
    """Logs: one JSON object a line."""

    level: Annotated[str, Meta(pattern=r"\A(debug|info|warning|error)\Z")] = "info"
    file: Path | None = None
    """Appended to; unset writes to the standard error."""


class NodeConfig(Settings, frozen=True):
    """Everything a node is told, apart from the genesis document."""

    node: NodeSection
    keys: KeysSection = KeysSection()
    network: NetworkSection = NetworkSection()
    api: ApiSection = ApiSection()
    consensus: ConsensusSection = ConsensusSection()
    mempool: MempoolSection = MempoolSection()
    verifier: VerifierSection = VerifierSection()
    log: LogSection = LogSection()

    @property
    def chain_db(self) -> Path:
        """Folder of the LevelDB database."""
        return self.node.data / "chain.db"

    @property
    def votes_journal(self) -> Path:
        """File of the journal of votes."""
        return self.node.data / "votes.journal"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration with absolute paths, and where each of its values came from."""

    config: NodeConfig
    origins: Mapping[str, str]
    """`api.listen` -> `default`, `node.toml`, `environment ATPAR_API__LISTEN` or
    `flag --api-listen`."""
    home: Path
    """The folder of `node.toml`."""

    def describe(self) -> Iterator[tuple[str, object, str]]:
        """Yield (key, effective value, origin) in the order of the sections."""
        for section, hint in _SECTIONS.items():
            for name in hint.__struct_fields__:
                key = f"{section}.{name}"
                value = getattr(getattr(self.config, section), name)
                yield key, value, self.origins[key]


@dataclass(frozen=True, slots=True)
class Timing:
    """All durations of consensus, from the chain's parameters and this node's allowances."""

    delta_ms: int
    build_allowance_ms: int
    verify_allowance_ms: int
    retry_ms: int
    max_delta_ms: int
    skip_timeout_ms: int
    block_interval_ms: int
    heartbeat_ms: int

    @property
    def leader_timeout_ms(self) -> int:
        """How long a view waits for its leader's proposal, before any back-off."""
        return 2 * self.delta_ms + self.build_allowance_ms

    @property
    def advance_timeout_ms(self) -> int:
        """How long a view waits for certification, before any back-off."""
        return 3 * self.delta_ms + self.verify_allowance_ms


_SECTIONS: Final[dict[str, type[Settings]]] = get_type_hints(NodeConfig)


def load_config(
    path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> LoadedConfig:
    """Return the effective configuration.

    `environment` is `os.environ` unless given; `flags` maps keys (`api.listen`) to values, where
    None means that the flag was not used.

    Raises:
        ConfigInvalid: the file cannot be read, a key is unknown, a value has the wrong type or
            range, or two timeouts contradict each other.
    """
    table, origins = _read_file(path)
    for key, value, origin in _collect_environment(
        os.environ if environment is None else environment
    ):
        _put(table, origins, key, value, origin)
    for key, flag in (flags or {}).items():
        if flag is not None:
            _put(table, origins, key, flag, f"flag --{key.replace('.', '-').replace('_', '-')}")
    home = path.resolve().parent
    config = _absolute(_convert(table, path.name), home)
    check_config(config)
    complete = {
        f"{section}.{name}": origins.get(f"{section}.{name}", DEFAULT_ORIGIN)
        for section, hint in _SECTIONS.items()
        for name in hint.__struct_fields__
    }
    return LoadedConfig(config, complete, home)


def check_config(config: NodeConfig) -> None:
    """Check the relations between values that are each valid alone.

    Raises:
        ConfigInvalid: two values contradict each other; the message names both.
    """
    network = config.network
    consensus = config.consensus
    _require_at_most(
        ("network.reconnect_min_ms", network.reconnect_min_ms),
        ("network.reconnect_max_ms", network.reconnect_max_ms),
    )
    _require_below(
        ("network.ping_interval_ms", network.ping_interval_ms),
        ("network.idle_timeout_ms", network.idle_timeout_ms),
    )
    _require_at_most(
        ("consensus.build_allowance_ms", consensus.build_allowance_ms),
        ("consensus.verify_allowance_ms", consensus.verify_allowance_ms),
    )
    _require_at_most(
        ("consensus.retry_ms", consensus.retry_ms),
        ("consensus.max_delta_ms", consensus.max_delta_ms),
    )
    for key, address in (("network.listen", network.listen), ("api.listen", config.api.listen)):
        _check_port(key, address)
    for participant, address in network.peers.items():
        _check_port(f"network.peers.{participant}", address)
    if network.listen == config.api.listen and not network.listen.endswith(":0"):
        raise ConfigInvalid(
            "api.listen", f"{config.api.listen} is also network.listen; they need two ports"
        )


def compute_timing(config: NodeConfig, params: GenesisParams) -> Timing:
    """Return the durations of consensus.

    Raises:
        ConfigInvalid: this node's allowances contradict the chain's parameters.
    """
    own = config.consensus
    timing = Timing(
        delta_ms=params.delta_ms,
        build_allowance_ms=own.build_allowance_ms,
        verify_allowance_ms=own.verify_allowance_ms,
        retry_ms=own.retry_ms,
        max_delta_ms=own.max_delta_ms,
        skip_timeout_ms=own.skip_timeout_ms,
        block_interval_ms=params.block_interval_ms,
        heartbeat_ms=params.heartbeat_ms,
    )
    skip = ("consensus.skip_timeout_ms", timing.skip_timeout_ms)
    delta = ("delta_ms of the genesis document", timing.delta_ms)
    _require_at_most(delta, ("consensus.max_delta_ms", timing.max_delta_ms))
    _require_at_most(delta, ("consensus.retry_ms", timing.retry_ms))
    _require_below(("the leader timeout", timing.leader_timeout_ms), skip)
    _require_below(("the advance timeout", timing.advance_timeout_ms), skip)
    _require_below(
        ("block_interval_ms of the genesis document", timing.block_interval_ms),
        ("the leader timeout", timing.leader_timeout_ms),
    )
    return timing


def render_config(config: NodeConfig) -> str:
    """Return `node.toml` text that holds every value that differs from its default."""
    lines = [
        "# One node of an atpar chain. `atpar node check` shows what is effective and why.",
        "# Every key can be set by environment: ATPAR_API__LISTEN=127.0.0.1:7101",
    ]
    for section, hint in _SECTIONS.items():
        values = getattr(config, section)
        defaults = _defaults(hint)
        changed = [
            name
            for name in hint.__struct_fields__
            if getattr(values, name) != defaults.get(name, ...)
        ]
        if changed:
            lines += ["", f"[{section}]"]
            lines += [f"{name} = {_toml(getattr(values, name))}" for name in changed]
    return "\n".join(lines) + "\n"


# ---- reading


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(str(path), f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(str(path), f"{len(data)} bytes, at most {MAX_CONFIG_BYTES}")
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(str(path), f"not valid TOML: {error}") from error
    origins = {}
    for section, values in table.items():
        if not isinstance(values, dict):
            raise ConfigInvalid(section, f"stands outside a section in {path.name}")
        for name in values:
            origins[f"{section}.{name}"] = path.name
    return table, origins


def _collect_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    for variable in sorted(environment):
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if rest == variable or SEPARATOR not in rest:
            continue
        section, _, name = rest.lower().partition(SEPARATOR)
        key = f"{section}.{name}"
        _check_known(key, f"environment {variable}")
        yield key, _parse_text(key, environment[variable]), f"environment {variable}"


def _parse_text(key: str, text: str) -> object:
    """Return the value of an environment variable: text as it is, other types read as JSON."""
    section, name = key.split(".")
    hint = get_type_hints(_SECTIONS[section], include_extras=True)[name]
    if str in _plain_types(hint) or Path in _plain_types(hint):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _plain_types(hint: Any) -> set[Any]:
    if get_origin(hint) is Annotated:
        return _plain_types(get_args(hint)[0])
    if get_origin(hint) in (dict, list, tuple):
        return {get_origin(hint)}
    arms = get_args(hint)
    return set().union(*(_plain_types(arm) for arm in arms)) if arms else {hint}


def _put(
    table: dict[str, Any], origins: dict[str, str], key: str, value: object, origin: str
) -> None:
    _check_known(key, origin)
    section, name = key.split(".")
    table.setdefault(section, {})[name] = value
    origins[key] = origin


def _check_known(key: str, origin: str) -> None:
    section, _, name = key.partition(".")
    if section not in _SECTIONS:
        raise ConfigInvalid(key, f"unknown section, from {origin}{_suggest(section, _SECTIONS)}")
    names = _SECTIONS[section].__struct_fields__
    if name not in names:
        raise ConfigInvalid(key, f"unknown key, from {origin}{_suggest(name, names)}")


def _suggest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _convert(table: dict[str, Any], source: str) -> NodeConfig:
    sections = {}
    for section, values in table.items():
        _check_known_section(section, values, source)
    for section, hint in _SECTIONS.items():
        try:
            sections[section] = msgspec.convert(table.get(section, {}), hint, dec_hook=_decode_path)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$")
            field = section + where.rstrip("`")
            raise ConfigInvalid(field, message) from error
    return NodeConfig(**sections)  # type: ignore[arg-type]  # each converted to its own hint


def _check_known_section(section: str, values: Mapping[str, object], source: str) -> None:
    if section not in _SECTIONS:
        raise ConfigInvalid(
            section, f"unknown section, from {source}{_suggest(section, _SECTIONS)}"
        )
    for name in values:
        _check_known(f"{section}.{name}", source)


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"expected a path, got {value!r:.80}")


def _absolute(config: NodeConfig, home: Path) -> NodeConfig:
    sections = {}
    for section in _SECTIONS:
        values = getattr(config, section)
        paths = {
            name: home / value.expanduser()
            for name in values.__struct_fields__
            if isinstance(value := getattr(values, name), Path)
        }
        sections[section] = msgspec.structs.replace(values, **paths)
    keys = sections["keys"]
    for name in ("vote", "next_vote"):
        location = getattr(keys, name)
        if location is not None and ":" not in location:
            keys = msgspec.structs.replace(keys, **{name: str(home / location)})
    sections["keys"] = keys
    return NodeConfig(**sections)


# ---- checking and writing


def _require_at_most(low: tuple[str, int], high: tuple[str, int]) -> None:
    if low[1] > high[1]:
        raise ConfigInvalid(low[0], f"{low[1]} is above {high[0]}, {high[1]}")


def _require_below(low: tuple[str, int], high: tuple[str, int]) -> None:
    if low[1] >= high[1]:
        raise ConfigInvalid(low[0], f"{low[1]} is not below {high[0]}, {high[1]}")


def _check_port(key: str, address: str) -> None:
    port = int(address.rpartition(":")[2])
    if port > 65_535:
        raise ConfigInvalid(key, f"port {port} is above 65535")


def _defaults(hint: type[Settings]) -> dict[str, object]:
    return {
        field.name: field.default if field.default is not msgspec.NODEFAULT else {}
        for field in msgspec.structs.fields(hint)
        if not field.required
    }


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, int):
        return str(value)
    # A JSON string is a valid TOML basic string.
    return msgspec.json.encode(str(value)).decode()
