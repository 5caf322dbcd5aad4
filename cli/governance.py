"""`atpar params|validators`: what the validators' administrators decide together.

Each changes what the chain itself runs by. Governance needs more than two thirds of the
administrators, who sit at different institutions: `atpar propose` in front lets each agree alone.
"""

from pathlib import Path
from typing import Any, Final

import click
import msgspec

from atpar.cli.context import State, keys_options, node_options, output_options, pass_state
from atpar.cli.errors import ConfigurationProblem, WrongUsage
from atpar.cli.fetch import fetch
from atpar.cli.files import read_input, write_new
from atpar.cli.members import PROOFS
from atpar.cli.ops import check
from atpar.cli.output import fields, table
from atpar.cli.policies import Prover
from atpar.cli.signing import How, Session, signing_options
from atpar.ledger.codec import Wire
from atpar.ledger.jsonform import JsonInvalid, from_json, to_json
from atpar.ledger.limits import PARAM_RANGES
from atpar.ledger.operations import NewValidator, Possessions, SetParams, SetValidators
from atpar.ledger.types import GOVERNANCE

MAX_MEMBER_BYTES: Final = 64 * 1024
MARGIN_BLOCKS: Final = 1_000
"""A change takes effect so many blocks from now, unless told otherwise."""


# ---- parameters


@click.group(name="params")
def params_command() -> None:
    """Show and change the chain's parameters."""


@params_command.command(name="show")
@output_options
@node_options
@pass_state
def show_params(state: State) -> None:
    """Show the parameters in force, the range of each, and the changes to come.

    Example: atpar params show
    """
    answer = fetch(state, "/v1/params")
    rows = [
        (name, value, " to ".join(str(end) for end in PARAM_RANGES[name]))
        for name, value in answer["params"].items()
    ]
    coming = [(each["name"], each["value"], each["height"]) for each in answer["pending"]]
    lines = table(("parameter", "value", "range"), rows, right=("value",))
    if coming:
        lines += ["", *table(("to come", "value", "at height"), coming, right=("value",))]
    lines += ["", *fields([("read at height", answer["read_height"])])]
    state.output.show(answer, lines)


@params_command.command(name="set")
@click.argument("key", type=click.Choice(list(PARAM_RANGES)))
@click.argument("value", type=click.IntRange(0))
@click.option(
    "--at-height",
    type=click.IntRange(1),
    help=f"Where it takes effect (default: {MARGIN_BLOCKS:,} blocks from now).",
)
@signing_options
@pass_state
def set_params(state: State, *, how: How, key: str, value: int, at_height: int | None) -> None:
    """Change a parameter at a height. Governance signs.

    Example: atpar propose params set heartbeat_ms 2000
    """
    session = Session(state)
    height = at_height or fetch(state, "/v1/status")["read_height"] + MARGIN_BLOCKS
    op = SetParams(key=key, value=value, activation_height=height)
    session.run(GOVERNANCE, [check(op)], how)


# ---- validators


class MemberFile(Wire, frozen=True):
    """One institution's seat in the voting set, as it makes it on its own machine."""

    member: NewValidator
    possessions: Possessions


@click.group(name="validators")
def validators_command() -> None:
    """Show the voting set, and fix that of the next epoch."""


@validators_command.command(name="show")
@output_options
@node_options
@pass_state
def show_validators(state: State) -> None:
    """Show the voting set, the last votes seen, and the next set.

    Example: atpar validators show
    """
    answer = fetch(state, "/v1/validators")
    addresses = {each["participant"]: each["address"] for each in answer.get("members", [])}
    rows = [
        (
            each["index"],
            each["participant"],
            addresses.get(each["participant"]),
            each["is_connected"] or each["is_self"],
            each["last_vote_view"],
            each["missed_votes"],
        )
        for each in answer["validators"]
    ]
    following = answer.get("next_members")
    coming = None if following is None else ", ".join(each["participant"] for each in following)
    ends = [
        ("epoch", answer["epoch"]),
        ("quorum", f"{answer['quorum']} of {len(rows)}"),
        ("next epoch", coming or "the same"),
        ("read at height", answer["read_height"]),
    ]
    headings = ("index", "participant", "address", "connected", "last vote in view", "missed")
    state.output.show(answer, [*table(headings, rows), "", *fields(ends)])


@validators_command.command(name="member")
@click.argument("participant")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--vote-key", default="vote", show_default=True, metavar="NAME")
@click.option("--governance-key", default="governance", show_default=True, metavar="NAME")
@click.option(
    "--root-certificate", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="The TLS root to register (PEM).",
)  # fmt: skip
@click.option("--address", required=True, help="host:port for other validators.")
@PROOFS
@output_options
@node_options
@keys_options
@pass_state
def make_member(
    state: State,
    *,
    participant: str,
    file: Path,
    vote_key: str,
    governance_key: str,
    root_certificate: Path,
    address: str,
    proofs: tuple[Path, ...],
) -> None:
    """Write what others need to seat this institution: public keys, proofs, certificate, address.

    Run it where the keys are; no private key leaves that machine.

    Example: atpar validators member ECHO echo.json --root-certificate keys/tls-root.pem
    --address 10.0.0.5:7201
    """
    session = Session(state)
    prover = Prover(session.ring, participant=participant, chain_id=session.chain.chain_id)
    prover.add_proofs(proofs)
    member = NewValidator(
        participant=participant,
        vote_key=prover.find_key(vote_key),
        admin_key=prover.find_key(governance_key),
        root_certificate=_read_root(root_certificate),
        address=address,
    )
    made = MemberFile(check(member), prover.prove_all((vote_key, governance_key)))
    data = to_json(made)
    write_new(file, msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
    state.output.show(
        {"file": str(file), **data["member"]},
        [f"{file}: {participant} at {address}", "next: atpar validators set --add FILE"],
    )


def _read_root(path: Path) -> str:
    from atpar.node.errors import IdentityInvalid
    from atpar.node.identity import parse_root

    data = read_input(path, max_bytes=MAX_MEMBER_BYTES)
    try:
        parse_root(data)
    except IdentityInvalid as error:
        raise ConfigurationProblem(
            f"{path}: {error}", advice="`atpar genesis join` or `atpar node init` makes one"
        ) from error
    return data.decode("ascii")


@validators_command.command(name="set")
@click.option(
    "--add", "added", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
    help="A file of `atpar validators member`; takes the seat of the same institution, if any.",
)  # fmt: skip
@click.option("--remove", "removed", multiple=True, metavar="CODE", help="Repeat for more.")
@signing_options
@pass_state
def set_validators(
    state: State, *, how: How, added: tuple[Path, ...], removed: tuple[str, ...]
) -> None:
    """Fix the voting set of the next epoch: the present one with what is named. Governance signs.

    Example: atpar propose validators set --add echo.json --remove DLTA
    """
    if not added and not removed:
        raise WrongUsage("nothing to change", advice="use --add FILE, or --remove CODE")
    session = Session(state)
    members = _list_members(state)
    seats = {each.participant: each for each in members}
    unknown = [code for code in removed if code not in seats]
    if unknown:
        raise WrongUsage(
            f"{', '.join(unknown)} is no validator", advice=f"validators: {', '.join(seats)}"
        )
    for code in removed:
        del seats[code]
    possessions: dict[bytes, Any] = {}
    for path in added:
        made = _read_member(path)
        seats[made.member.participant] = made.member
        possessions |= {each.key: each for each in made.possessions}
    op = SetValidators(
        members=tuple(seats.values()),
        possessions=tuple(possessions[key] for key in sorted(possessions)),
    )
    session.run(GOVERNANCE, [check(op)], how)


def _list_members(state: State) -> list[NewValidator]:
    """Return the members to start from: those of the next epoch, if it is fixed already."""
    answer = fetch(state, "/v1/validators")
    found = answer.get("next_members") or answer.get("members")
    if found is None:
        raise WrongUsage(
            "this node does not tell what is registered of validators",
            advice="ask a node of this version",
        )
    return [from_json(NewValidator, each) for each in found]


def _read_member(path: Path) -> MemberFile:
    data = read_input(path, max_bytes=MAX_MEMBER_BYTES)
    try:
        return from_json(MemberFile, msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError, JsonInvalid) as error:
        raise WrongUsage(
            f"{path}: no member file: {error}", advice="`atpar validators member` makes one"
        ) from error
