"""What every command shares: the global options, wherever on the line they stand, and settings.

`--json` and `--debug` are accepted after any command as well as before it; so are `--home`,
`--node` and `--genesis` by commands that talk to a node, and the key options by those that sign.
A setting comes from its flag, else its environment variable, else the folder's `client.toml` or
`node.toml`, else a default.
"""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec

from atpar.cli.errors import ConfigurationProblem
from atpar.cli.output import Output

DEFAULT_NODE: Final = "http://127.0.0.1:7101"
DEFAULT_TIMEOUT_S: Final = 30.0
CLIENT_FILE: Final = "client.toml"
NODE_FILE: Final = "node.toml"

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class ClientFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`client.toml`: what a person who uses a chain does not want to type each time.

    Relative paths start at its folder.
    """

    nodes: tuple[str, ...] = ()
    """URLs of APIs, in order of preference."""
    genesis: str | None = None
    keys: str | None = None
    """Folder of keystore files."""
    passphrase_file: str | None = None
    receipts: str | None = None
    """Folder that receipts and proofs are saved in."""
    token_file: str | None = None
    """File whose first line is the bearer token, where a node's API asks for one."""


@dataclass
class State:
    """One run of the command: its options as given, and its output."""

    output: Output = field(default_factory=Output)
    debug: bool = False
    nodes: tuple[str, ...] = ()
    genesis: Path | None = None
    home: Path | None = None
    keys: Path | None = None
    passphrase_file: Path | None = None
    receipts: Path | None = None
    proposal_expires_ms: int | None = None
    """Under `atpar propose`: last instant of an approval of what the command makes."""
    transport: Any = None
    """An httpx transport that replaces the network, for tests."""
    _file: ClientFile | None = None

    @property
    def folder(self) -> Path:
        """The folder that settings and relative defaults come from."""
        return self.home or Path()

    def get_nodes(self) -> tuple[str, ...]:
        """Return the URLs to try, in order."""
        if self.nodes:
            return tuple(url.rstrip("/") for url in self.nodes)
        if self._client_file().nodes:
            return tuple(url.rstrip("/") for url in self._client_file().nodes)
        return (self._node_file_url() or DEFAULT_NODE,)

    def get_genesis_path(self) -> Path:
        """Return where the genesis document is."""
        return self.genesis or self._from_file(self._client_file().genesis, "genesis.json")

    def get_keys_path(self) -> Path:
        """Return the folder of keystore files."""
        return self.keys or self._from_file(self._client_file().keys, "keys")

    def get_receipts_path(self) -> Path:
        """Return the folder that receipts are saved in; it need not exist yet."""
        return self.receipts or self._from_file(self._client_file().receipts, "receipts")

    def get_passphrase_path(self) -> Path | None:
        """Return the file that holds the passphrase, if one is named anywhere."""
        if self.passphrase_file is not None:
            return self.passphrase_file
        named = self._client_file().passphrase_file
        return None if named is None else self.folder / named

    def get_token(self) -> str | None:
        """Return the bearer token for nodes that ask for one: ATPAR_TOKEN, or the named file's.

        Raises:
            ConfigurationProblem: the file cannot be read.
        """
        if token := os.environ.get("ATPAR_TOKEN"):
            return token
        named = self._client_file().token_file
        if named is None:
            return None
        try:
            return (self.folder / named).read_text(encoding="ascii").split("\n", 1)[0].strip()
        except (OSError, ValueError) as error:
            raise ConfigurationProblem(
                f"token file {self.folder / named}: {error}", advice="correct client.toml"
            ) from error

    def _from_file(self, named: str | None, default: str) -> Path:
        return self.folder / (named or default)

    def _client_file(self) -> ClientFile:
        if self._file is None:
            self._file = _read_client_file(self.folder / CLIENT_FILE)
        return self._file

    def _node_file_url(self) -> str | None:
        path = self.folder / NODE_FILE
        if not path.is_file():
            return None
        from atpar.node.config import load_config

        host, _, port = load_config(path).config.api.listen.rpartition(":")
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"  # noqa: S104


def _read_client_file(path: Path) -> ClientFile:
    if not path.is_file():
        return ClientFile()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), ClientFile)
    except (OSError, ValueError) as error:
        raise ConfigurationProblem(
            f"{path}: {error}",
            advice=f"keys: {', '.join(ClientFile.__struct_fields__)}; nodes is a list of URLs",
        ) from error


# ---- options


def pass_state(function: Callable[Concatenate[State, P], R]) -> Callable[P, R]:
    """Give a command function the State as its first argument."""

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(click.get_current_context().ensure_object(State), *args, **kwargs)

    return update_wrapper(wrapper, function)


def _remember(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is None or value == ():
            return
        state = context.ensure_object(State)
        if attribute == "json":
            state.output.as_json = state.output.as_json or bool(value)
        elif attribute == "debug":
            state.debug = state.debug or bool(value)
        else:
            setattr(state, attribute, value)

    return callback


def _shared(*names: str, attribute: str, **settings: Any) -> Callable[[F], F]:
    return click.option(
        *names, callback=_remember(attribute), expose_value=False, is_eager=True, **settings
    )


def output_options(function: F) -> F:
    """Add the options that every command has."""
    function = _shared("--debug", attribute="debug", is_flag=True, help="Show tracebacks.")(
        function
    )
    return _shared("--json", attribute="json", is_flag=True, help="Print one JSON object.")(
        function
    )


def home_option(function: F) -> F:
    """Add --home."""
    return _shared(
        "--home",
        attribute="home",
        envvar="ATPAR_HOME",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="Folder with client.toml, genesis.json and keys (default: this folder).",
    )(function)


def node_home_option(function: F) -> F:
    """Add --home of the commands that work on a node's own folder, and its parameter."""
    return click.option(
        "--home",
        envvar="ATPAR_HOME",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="The node's folder (default: this folder).",
    )(function)


def genesis_option(function: F) -> F:
    """Add --genesis."""
    return _shared(
        "--genesis",
        attribute="genesis",
        envvar="ATPAR_GENESIS",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The chain's genesis document (default: genesis.json).",
    )(function)


def keys_options(function: F) -> F:
    """Add --keys and --passphrase-file. A passphrase itself is never an option."""
    function = _shared(
        "--passphrase-file",
        attribute="passphrase_file",
        envvar="ATPAR_PASSPHRASE_FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File whose first line is the passphrase (or ATPAR_PASSPHRASE, or a prompt).",
    )(function)
    return _shared(
        "--keys",
        attribute="keys",
        envvar="ATPAR_KEYS",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of keystore files (default: keys).",
    )(function)


def node_options(function: F) -> F:
    """Add the options of commands that talk to a node."""
    function = genesis_option(home_option(function))
    return _shared(
        "--node",
        attribute="nodes",
        envvar="ATPAR_NODE",
        multiple=True,
        metavar="URL",
        help=f"A node's API; repeat for more, tried in order (default: {DEFAULT_NODE}).",
    )(function)


def get_environment_passphrase() -> str | None:
    """Return the passphrase of ATPAR_PASSPHRASE, if set."""
    return os.environ.get("ATPAR_PASSPHRASE")
