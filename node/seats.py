"""Who has a seat on the validator network: this node's own, and the peers it connects with.

The genesis document names the founding validators and the observers; from then on the members
stand in the state. A member of the next epoch may connect as soon as `set_validators` has named
it, so that it is there when its epoch begins. A member that left stays until it is seen to have
the finalization of the boundary, for one epoch at most. The same holds for root certificates: an
old and a new one of one participant overlap that long.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from atpar.ledger.genesis import Genesis
from atpar.ledger.records import CURRENT, NEXT, VALIDATORS, Validator, ValidatorSet
from atpar.node.config import NodeConfig
from atpar.node.errors import IdentityInvalid, StartRefused, StoreCorrupt
from atpar.node.identity import Roots
from atpar.node.logs import get_logger
from atpar.node.peers import PeerSpec, parse_address
from atpar.node.store import Store

log = get_logger("seats")


@dataclass(frozen=True, slots=True)
class Sets:
    """The validator sets that matter to the network at one final height."""

    current: ValidatorSet
    following: ValidatorSet | None
    """The next epoch's, once `set_validators` has fixed it."""
    former: ValidatorSet | None
    """That of the epoch before."""
    announced: ValidatorSet | None = None
    """One that a proof shows to be in force later: see `bootstrap.py`."""

    def list_members(self) -> list[Validator]:
        """Return the members of all sets; the newest one's entries come first, if it is announced,
        otherwise those of the running epoch."""
        sets = [self.announced, self.current, self.following, self.former]
        return [member for each in sets if each is not None for member in each.members]


def read_sets(store: Store, announced: ValidatorSet | None = None) -> Sets:
    """Return the sets at the final height of a store; an announced one until it is reached."""
    view = store.get_final().view
    current = view.get(VALIDATORS, CURRENT)
    if current is None:
        raise StoreCorrupt("chain.db: the chain's validators are missing")
    former = store.get_epoch(current.epoch - 1) if current.epoch else None
    return Sets(
        current=current,
        following=view.get(VALIDATORS, NEXT),
        former=None if former is None else former.validators,
        announced=announced if announced and announced.epoch > current.epoch else None,
    )


def get_genesis_sets(genesis: Genesis) -> Sets:
    """Return the sets as genesis founded them: what is known without a store."""
    current = genesis.overlay.get(VALIDATORS, CURRENT)
    assert current is not None, "genesis names the validators"
    return Sets(current=current, following=None, former=None)


# ---- this node


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What is registered of this node's participant."""

    votes: bool
    """It has, had, or is about to have a vote; otherwise it is an observer."""
    vote_key: bytes | None
    """In the running epoch; None where it has no vote."""
    known_keys: frozenset[bytes]
    """Every vote key of it that any epoch up to the next one names."""


def find_seat(genesis: Genesis, store: Store | None, config: NodeConfig) -> Seat:
    """Return this node's seat, as of the store's final block; without a store, as of genesis.

    Raises:
        StartRefused: neither genesis nor any epoch up to the next one names it.
    """
    own = config.node.participant
    sets = get_genesis_sets(genesis) if store is None else read_sets(store)
    epochs = [] if store is None else store.list_epochs()
    members = [member for entry in epochs for member in entry.validators.members]
    members += sets.list_members()
    keys = [member.vote_key for member in members if member.participant == own]
    current = [m.vote_key for m in sets.current.members if m.participant == own]
    if keys or config.node.joins:
        return Seat(
            votes=True, vote_key=current[0] if current else None, known_keys=frozenset(keys)
        )
    if any(observer.participant == own for observer in genesis.document.observers):
        return Seat(votes=False, vote_key=None, known_keys=frozenset())
    codes = ", ".join(member.participant for member in sets.current.members)
    raise StartRefused(
        f"node.participant {own} is neither a validator nor an observer of chain "
        f"{genesis.document.name}; its validators are {codes}. A node that is to join in a later "
        "epoch says so with node.joins = true"
    )


def check_vote_keys(seat: Seat, held: Iterable[bytes], config: NodeConfig) -> None:
    """Check that this node holds the vote key that the running epoch registers.

    Raises:
        StartRefused: it does not, and its configuration does not say that this is expected.
    """
    keys = list(held)
    if seat.vote_key is not None and seat.vote_key not in keys and not config.node.joins:
        raise StartRefused(
            f"keys.vote is {keys[0].hex()}, the chain registers "
            f"{seat.vote_key.hex()} for {config.node.participant}: put the registered vote key in "
            "place; a key that takes over in a later epoch is keys.next_vote"
        )


# ---- its peers


def list_roots(genesis: Genesis, sets: Sets) -> Iterator[tuple[str, bytes]]:
    """Yield (participant, root PEM) of everyone who may connect."""
    for observer in genesis.document.observers:
        yield observer.participant, observer.root_certificate.encode("ascii", "replace")
    for member in sets.list_members():
        yield member.participant, member.root_certificate.encode("ascii", "replace")


def make_roots(genesis: Genesis, sets: Sets) -> Roots:
    """Return the registered roots. One that cannot be one keeps only its own owner out.

    Raises:
        IdentityInvalid: none is left.
    """
    taken: list[tuple[str, bytes]] = []
    for entry in dict.fromkeys(list_roots(genesis, sets)):
        try:
            Roots([*taken, entry])
        except IdentityInvalid as error:
            log.warning("root certificate not usable", peer=entry[0], reason=str(error))
        else:
            taken.append(entry)
    return Roots(taken)


def make_peers(config: NodeConfig, genesis: Genesis, sets: Sets, left: set[str]) -> list[PeerSpec]:
    """Return the peers that a node connects with: members, and observers that dial in.

    `left`: former members that have been seen to know that they left. Two observers have nothing
    to say to each other.
    """
    own = config.node.participant
    addresses: dict[str, str] = {}
    for member in sets.list_members():
        addresses.setdefault(member.participant, member.address)
    running = [sets.announced, sets.current, sets.following]
    active = {m.participant for each in running if each is not None for m in each.members}
    codes = [code for code in addresses if code in active or code not in left]
    addresses.update(config.network.peers)
    if own in codes:
        codes += [o.participant for o in genesis.document.observers if o.participant not in codes]
    return [make_spec(code, addresses.get(code)) for code in codes if code != own]


def make_spec(participant: str, address: str | None) -> PeerSpec:
    """Return a peer; without an address, or with one that cannot be dialled, it dials us."""
    host, port = ("", 0) if address is None else parse_address(address)
    return PeerSpec(participant, host, port) if 0 < port < 65_536 else PeerSpec(participant)
