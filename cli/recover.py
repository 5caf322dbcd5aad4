"""`atpar node recover|rejoin`: after journals were lost, of too many validators or of one.

`recover` reopens a chain that fewer than a quorum can vote on. `rejoin` lets one validator follow
without its journal, and vote again from a later epoch on.

Draft on one stopped node that has the highest final block of all; each administrator has its own
node check the document, compares, and signs, off the nodes; join the files; apply the result on
every stopped node; start the nodes.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from atpar.cli.context import (
    NODE_FILE,
    State,
    keys_options,
    node_home_option,
    output_options,
    pass_state,
)
from atpar.cli.errors import ConfigurationProblem, SafetyStop, WrongUsage
from atpar.cli.files import read_input, write_new, write_over
from atpar.cli.keyring import KeyRing
from atpar.cli.output import fields
from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind
from atpar.node.config import NodeConfig, load_config
from atpar.node.keystore import read_key

if TYPE_CHECKING:
    from atpar.consensus.records import JournalRecord
    from atpar.ledger.genesis import Genesis
    from atpar.node.journal import Opening
    from atpar.node.recover import RecoveryFile
    from atpar.node.seats import Seat
    from atpar.node.store import Store

MAX_LOST_EPOCHS: Final = 10_000
"""Most epochs that a journal is begun without a vote for."""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(name="recover")
def recover_group() -> None:
    """Reopen a chain that too few can vote on, by the word of a quorum of administrators.

    Only when it cannot go on by itself: more journals or machines are lost than it bears. First
    make sure of the highest final block that any node has; a node above it refuses the document.
    """


@recover_group.command()
@click.argument("file", type=_FILE)
@click.option("--members", metavar="CODE,…", help="Who votes (default: as before).")
@click.option(
    "--abandon",
    "abandoned",
    metavar="DIGEST",
    multiple=True,
    help="A block above that never became final, though a validator voted for that.",
)
@node_home_option
@output_options
@pass_state
def draft(
    state: State, *, file: Path, members: str | None, abandoned: tuple[str, ...], home: Path
) -> None:
    """Write an unsigned document that opens the next epoch at this node's final block.

    Example: atpar node recover draft recovery.json --home alfa
    """
    from atpar.node.datadir import open_chain
    from atpar.node.recover import draft_recovery, render_recovery

    config, digests = _load(home), [_parse_digest(each) for each in abandoned]
    store = open_chain(config.node.data, chain_id=_read_chain_id(config))
    try:
        drafted = draft_recovery(store, None if members is None else members.split(","), digests)
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
    What was signed is noted beside the key: for one epoch only one document is ever signed, since
    two could make two histories.

    Example: atpar node recover sign recovery.json --participant ALFA --keys keys
    """
    from atpar.node.recover import add_signature, render_recovery

    given, ring = _read(file), KeyRing(state)
    signer = ring.open(ring.find(governance_key))
    _note_signing(ring.folder, given, signer.public_key)
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
@node_home_option
@output_options
@pass_state
def check(state: State, *, file: Path, home: Path) -> None:
    """Check on a stopped node, before its administrator signs, that nothing stands against it.

    Refused where this node's final block is another, or where its validator voted to finalise a
    block above that the document does not abandon. Changes nothing. From here on the node must not
    run before the document is applied to it.

    Example: atpar node recover check recovery.json --home alfa
    """
    from atpar.node.datadir import open_chain
    from atpar.node.recover import judge_recovery

    config, given = _load(home), _read(file)
    store = open_chain(config.node.data, chain_id=_read_chain_id(config))
    try:
        judge_recovery(store, given, _read_votes(config, store, _find_seat(config, store)))
    finally:
        store.close()
    _show(state, given, file, done="nothing at this node stands against it; leave it stopped")


@recover_group.command()
@click.argument("file", type=_FILE)
@node_home_option
@output_options
@pass_state
def apply(state: State, *, file: Path, home: Path) -> None:
    """Open the document's epoch on a stopped node.

    Refused unless a quorum of the stopped epoch's administrators signed, this node's final block
    is the document's, and its validator did not vote to finalise another above it. A whole journal
    is kept; a missing or lost one begins anew. Applying the same document again changes nothing.

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
    from atpar.node.recover import apply_recovery, begin_journal, continue_journal

    seat = _find_seat(config, store)
    records = _read_votes(config, store, seat)
    start = apply_recovery(store, given, records)
    # With a final block in the new epoch there was a journal of it: then it is lost like any other.
    if not seat.votes or store.position.height > start.height:
        return None
    opening = _make_opening(config, store, seat)
    if records is None:
        return begin_journal(config.node.data, opening, start)
    continue_journal(config.node.data, opening, start, keys=seat.known_keys)
    return None


def _find_seat(config: NodeConfig, store: "Store") -> "Seat":
    from atpar.node.seats import find_seat

    return find_seat(_load_genesis(config), store, config)


def _make_opening(config: NodeConfig, store: "Store", seat: "Seat") -> "Opening":
    from atpar.node.datadir import make_opening

    held = seat.vote_key
    if held is None:
        held = read_key(Path(config.keys.vote)).public_key
    own = config.node.participant
    return make_opening(chain_id=store.chain_id, participant=own, vote_key=held)


def _read_votes(config: NodeConfig, store: "Store", seat: "Seat") -> "list[JournalRecord] | None":
    """Return what a node's journal holds; None for an observer, or if it is missing or lost."""
    from atpar.node.recover import read_journal

    if not seat.votes:
        return None
    opening = _make_opening(config, store, seat)
    return read_journal(config.node.data, opening, keys=seat.known_keys)


# ---- one validator without its journal


@click.command()
@click.option(
    "--epoch", type=click.IntRange(0), required=True, metavar="N",
    help="The epoch that runs, as the others' `atpar node status` shows it: no vote in it.",
)  # fmt: skip
@node_home_option
@output_options
@pass_state
def rejoin(state: State, *, epoch: int, home: Path) -> None:
    """Begin a lost vote journal anew: the node follows, and votes from the epoch after N on.

    For a validator whose votes.journal is missing or damaged, with or without its chain.db, which
    is begun anew too where it is missing. Nobody knows any more what it voted, so it casts no vote
    up to and with epoch N: too high an N costs time, too low a one may cost the chain's safety. A
    damaged journal is kept beside the new one.

    Example: atpar node rejoin --home alfa --epoch 3
    """
    from atpar.node.datadir import JOURNAL_NAME, STORE_NAME, create_data

    config = _load(home)
    data, is_new = config.node.data, not (config.node.data / STORE_NAME).exists()
    opening, first = _read_lost(config, is_new=is_new)
    if not first <= epoch < first + MAX_LOST_EPOCHS:
        raise WrongUsage(
            f"--epoch {epoch}: this node is in epoch {first}",
            advice=f"the running epoch, {first} to {first + MAX_LOST_EPOCHS - 1}",
        )
    aside = _begin_lost(config, opening, first, epoch)
    if is_new:
        genesis = _load_genesis(config)
        create_data(data, genesis, participant=opening.participant, vote_key=opening.vote_key)
    begun = [JOURNAL_NAME, *([STORE_NAME] if is_new else [])]
    kept = [] if aside is None else [f"the lost journal is kept as {aside}"]
    state.output.show(
        {"home": str(home), "begun": begun, "first_epoch_with_a_vote": epoch + 1},
        [
            f"{' and '.join(begun)} begun anew; no vote before epoch {epoch + 1}",
            *kept,
            f"next: atpar node run --home {home}",
        ],
    )


def _read_lost(config: NodeConfig, *, is_new: bool) -> "tuple[Opening, int]":
    """Return the opening of the journal that is to begin, and the epoch that the node is in.

    Raises:
        ConfigurationProblem: nothing is lost, or the node has no vote that could be.
    """
    from atpar.node.datadir import make_opening, open_chain, read_position
    from atpar.node.errors import StartRefused
    from atpar.node.recover import read_journal
    from atpar.node.seats import check_vote_keys, find_seat

    genesis, epoch, store = _load_genesis(config), 0, None
    if not is_new:
        store = open_chain(config.node.data, chain_id=genesis.chain_id)
    try:
        seat = find_seat(genesis, store, config)
        if store is not None:
            epoch = read_position(store).start.epoch
    finally:
        if store is not None:
            store.close()
    if not seat.votes:
        raise ConfigurationProblem(
            f"{config.node.participant} is an observer: it has no votes to lose",
            advice="`atpar node init` begins its chain.db anew, once it is renamed or gone",
        )
    held = read_key(Path(config.keys.vote)).public_key
    try:
        check_vote_keys(seat, [held], config)
    except StartRefused as error:
        raise ConfigurationProblem(
            str(error),
            advice="where a later epoch registers it, set node.joins = true until it is there",
        ) from error
    opening = make_opening(
        chain_id=genesis.chain_id,
        participant=config.node.participant,
        vote_key=seat.vote_key or held,
    )
    if read_journal(config.node.data, opening, keys=seat.known_keys) is not None:
        raise ConfigurationProblem(
            "votes.journal is there and whole: this validator may vote with it",
            advice="start the node; a chain.db that is missing is begun anew by `atpar node init`",
        )
    return opening, epoch


def _begin_lost(config: NodeConfig, opening: "Opening", first: int, last: int) -> Path | None:
    from atpar.node.datadir import begin_journal_anew, make_lost_records

    data = config.node.data
    data.mkdir(parents=True, exist_ok=True)
    return begin_journal_anew(data, opening, make_lost_records(first, last), epoch=last + 1)


def _load_genesis(config: NodeConfig) -> "Genesis":
    from atpar.node.service import load_genesis

    return load_genesis(config.node.genesis)


def _parse_digest(text: str) -> bytes:
    if re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII) is None:
        raise WrongUsage(
            f"--abandon {text!r} is no block digest", advice="64 hex digits, as `check` prints them"
        )
    return bytes.fromhex(text)


def _note_signing(folder: Path, file: "RecoveryFile", key: bytes) -> None:
    """Note beside a key which document it signs for an epoch, before it does.

    Raises:
        SafetyStop: it has signed another.
        ConfigurationProblem: the note cannot be written.
    """
    from atpar.node.recover import RecoveryFile, render_recovery

    name = f"recovery-{file.chain_id.hex()[:16]}-{file.body.epoch}-{key.hex()[:16]}.signed.json"
    path = folder / name
    note = RecoveryFile(file.format, file.chain_id, file.body, ())
    if not path.exists():
        write_new(path, render_recovery(note))
    before = _read(path)
    if before != note:
        raise SafetyStop(
            f"this key signed another document for epoch {file.body.epoch}: at block "
            f"{before.body.height} {before.body.digest.hex()}, not {file.body.height} "
            f"{file.body.digest.hex()}; {path} says which",
            advice="only if no quorum can have signed the first, and every copy of it is destroyed,"
            " move that note away yourself",
        )


def _load(home: Path) -> NodeConfig:
    path = home / NODE_FILE
    if not path.is_file():
        raise ConfigurationProblem(f"no {NODE_FILE} in {home.resolve()}", advice="use --home DIR")
    return load_config(path).config


def _read_chain_id(config: NodeConfig) -> bytes:
    return _load_genesis(config).chain_id


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
        "abandoned": [digest.hex() for digest in body.abandoned],
        "signed_by": signers,
    }
    shown = {name: ", ".join(v) if isinstance(v, list) else v for name, v in values.items()}
    state.output.show(values, [*fields(shown.items()), *([done] if done else [])])
