"""`atpar node recover`: reopen a chain that fewer than a quorum of validators can vote on.

Draft on one stopped node that has the highest final block of all; each administrator compares and
signs, off the nodes; join the files; apply the result on every stopped node; start the nodes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atpar.cli.context import NODE_FILE, State, keys_options, output_options, pass_state
from atpar.cli.errors import ConfigurationProblem
from atpar.cli.files import read_input, write_new, write_over
from atpar.cli.keyring import KeyRing
from atpar.cli.output import fields
from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind
from atpar.node.config import NodeConfig, load_config

if TYPE_CHECKING:
    from atpar.node.recover import RecoveryFile
    from atpar.node.store import Store

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(name="recover")
def recover_group() -> None:
    """Reopen a chain that too few can vote on, by the word of a quorum of administrators.

    Only when it cannot go on by itself: more journals or machines are lost than it bears. First
    make sure of the highest final block that any node has; a node above it refuses the document.
    """


def _home(function: Any) -> Any:
    return click.option(
        "--home",
        envvar="ATPAR_HOME",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="The stopped node's folder (default: this folder).",
    )(function)


@recover_group.command()
@click.argument("file", type=_FILE)
@click.option("--members", metavar="CODE,…", help="Who votes (default: as before).")
@_home
@output_options
@pass_state
def draft(state: State, *, file: Path, members: str | None, home: Path) -> None:
    """Write an unsigned document that opens the next epoch at this node's final block.

    Example: atpar node recover draft recovery.json --home alfa
    """
    from atpar.node.datadir import open_chain
    from atpar.node.recover import draft_recovery, render_recovery

    config = _load(home)
    store = open_chain(config.node.data, chain_id=_read_chain_id(config))
    try:
        drafted = draft_recovery(store, None if members is None else members.split(","))
    finally:
        store.close()
    write_new(file, render_recovery(drafted))
    _show(state, drafted, file)


@recover_group.command()
@click.argument("file", type=_FILE)
@click.option("--participant", required=True, metavar="CODE", help="Whose administrator signs.")
@click.option("--governance-key", default="governance", show_default=True, help="Name of the key.")
@click.option("--out", type=_FILE, help="Write the signed file there instead.")
@output_options
@keys_options
@pass_state
def sign(
    state: State, *, file: Path, participant: str, governance_key: str, out: Path | None
) -> None:
    """Sign as one validator's administrator, offline.

    Compare height and digest with the other parties first: this says that the chain ends there.

    Example: atpar node recover sign recovery.json --participant ALFA --keys keys
    """
    from atpar.node.recover import add_signature, render_recovery

    given, ring = _read(file), KeyRing(state)
    signer = ring.open(ring.find(governance_key))
    signature = signer.sign(SignKind.RECOVERY, given.chain_id, encode(given.body))
    signed = add_signature(given, participant, signature)
    write_over(out or file, render_recovery(signed))
    _show(state, signed, out or file)


@recover_group.command()
@click.argument("out", type=_FILE)
@click.argument("files", type=_FILE, nargs=-1, required=True)
@output_options
@pass_state
def join(state: State, *, out: Path, files: tuple[Path, ...]) -> None:
    """Join the signatures of several files of one document.

    Example: atpar node recover join recovery.json alfa.json brvo.json chrl.json
    """
    from atpar.node.recover import join_recoveries, render_recovery

    joined = join_recoveries([_read(file) for file in files])
    write_over(out, render_recovery(joined))
    _show(state, joined, out)


@recover_group.command()
@click.argument("file", type=_FILE)
@_home
@output_options
@pass_state
def apply(state: State, *, file: Path, home: Path) -> None:
    """Open the document's epoch on a stopped node.

    Refused unless a quorum of the stopped epoch's administrators signed and this node's final block
    is the document's. A whole journal is kept; a missing or lost one begins anew. Applying the same
    document again changes nothing.

    Example: atpar node recover apply recovery.json --home alfa
    """
    from atpar.node.datadir import open_chain

    config, given = _load(home), _read(file)
    store = open_chain(config.node.data, chain_id=_read_chain_id(config))
    try:
        aside = _apply(config, store, given)
    finally:
        store.close()
    if aside is not None:
        state.output.note(f"the lost journal is kept as {aside}")
    _show(state, given, file, done=f"epoch {given.body.epoch} is open; start the node")


def _apply(config: NodeConfig, store: "Store", given: "RecoveryFile") -> Path | None:
    from atpar.node.datadir import make_opening, read_position
    from atpar.node.keystore import read_key
    from atpar.node.recover import apply_recovery, begin_journal, check_nothing_above, read_journal
    from atpar.node.seats import find_seat
    from atpar.node.service import load_genesis

    seat = find_seat(load_genesis(config.node.genesis), store, config)
    if not seat.votes:
        apply_recovery(store, given)
        return None
    held = seat.vote_key
    if held is None:
        held = read_key(Path(config.keys.vote)).public_key
    own = config.node.participant
    opening = make_opening(chain_id=store.chain_id, participant=own, vote_key=held)
    records = read_journal(config.node.data, opening, keys=seat.known_keys)
    position = read_position(store)
    if records is not None:
        check_nothing_above(records, position.tip, epoch=position.start.epoch)
    start = apply_recovery(store, given)
    return begin_journal(config.node.data, opening, start) if records is None else None


def _load(home: Path) -> NodeConfig:
    path = home / NODE_FILE
    if not path.is_file():
        raise ConfigurationProblem(f"no {NODE_FILE} in {home.resolve()}", advice="use --home DIR")
    return load_config(path).config


def _read_chain_id(config: NodeConfig) -> bytes:
    from atpar.node.service import load_genesis

    return load_genesis(config.node.genesis).chain_id


def _read(path: Path) -> "RecoveryFile":
    from atpar.node.recover import MAX_FILE_BYTES, parse_recovery

    return parse_recovery(read_input(path, max_bytes=MAX_FILE_BYTES))


def _show(state: State, file: "RecoveryFile", path: Path, *, done: str | None = None) -> None:
    body = file.body
    signers = [each.participant for each in file.signatures]
    members = [member.participant for member in body.members]
    values = {
        "file": str(path),
        "chain_id": file.chain_id.hex(),
        "epoch": body.epoch,
        "height": body.height,
        "digest": body.digest.hex(),
        "members": members,
        "signed_by": signers,
    }
    shown = {**values, "members": ", ".join(members), "signed_by": ", ".join(signers)}
    state.output.show(values, [*fields(shown.items()), *([done] if done else [])])
