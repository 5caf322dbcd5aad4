"""`atpar propose|approve|reject|withdraw|proposals`: maker and checker on the ledger.

The maker puts operations to those who must agree, with one key; the checker, at another machine or
another institution, reads them as the ledger has them and agrees with a key of their own. No file
passes between them. What is approved is named by the hash of the operations that are shown here,
computed here, so a node cannot have anybody agree to something else.
"""

import json
from pathlib import Path
from typing import Any, Final

import click

from atpar.cli.context import State, node_options, output_options, pass_state
from atpar.cli.describe import describe_bundle, format_time, summarise
from atpar.cli.errors import CliError, RefusedByLedger, WrongUsage, refused
from atpar.cli.fetch import fetch, fetch_all
from atpar.cli.files import read_input
from atpar.cli.main import COMMANDS, load_command
from atpar.cli.ops import parse_deadline
from atpar.cli.output import fields, table
from atpar.cli.query import LIMIT, check_account
from atpar.cli.remote import make_proposal
from atpar.cli.signing import How, Session, find_made, parse_hash, signing_options
from atpar.cli.submit import Sent
from atpar.cli.txfile import FORMAT, read_tx_file
from atpar.ledger.authority import compute_bundle_hash
from atpar.ledger.codec import Wire
from atpar.ledger.jsonform import JsonInvalid, from_json, operation_name
from atpar.ledger.limits import MAX_TRANSACTION_BYTES
from atpar.ledger.operations import Approve, BundledOperation, Decision, Operation
from atpar.ledger.records import Proposal

PROPOSABLE: Final = (
    "mint", "transfer", "redeem", "burn", "hold", "capture", "assign", "release", "attest",
    "freeze", "unfreeze", "seize", "pause", "unpause", "controls", "params", "validators",
    "account", "asset", "participant", "evidence",
)  # fmt: skip
DEFAULT_EXPIRY: Final = "+24h"
PROPOSAL: Final = click.argument("proposal")
PIN: Final = click.option(
    "--hash", "pinned", metavar="HASH", help="Only if the bundle has this hash."
)


class _Bundle(Wire, frozen=True):
    ops: tuple[BundledOperation, ...]


# ---- the maker


class ProposeGroup(click.Group):
    """The commands that make operations, each putting them to a vote instead of running them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of the table."""
        return [*PROPOSABLE, "file"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, of groups only what signs."""
        if cmd_name not in PROPOSABLE:
            return super().get_command(ctx, cmd_name)
        command = load_command(cmd_name)
        if not isinstance(command, click.Group):
            return command
        signing = {
            name: each
            for name, each in command.commands.items()
            if any(param.name == "key_names" for param in each.params)
        }
        return click.Group(command.name, signing, help=command.help)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing any."""
        rows = [(name, COMMANDS[name][1]) for name in PROPOSABLE]
        with formatter.section("Commands"):
            formatter.write_dl([*rows, ("file", "What a file of operations says.")])


@click.group(name="propose", cls=ProposeGroup)
@click.option(
    "--expires",
    default=DEFAULT_EXPIRY,
    show_default=True,
    metavar="TIME",
    help="Last instant of an approval: a time, or from now as in +90m, +24h, +7d.",
)
@output_options
@node_options
@pass_state
def propose_command(state: State, *, expires: str) -> None:
    """Put an operation to those who must agree, on the ledger, with one key.

    Write any command that signs after `atpar propose`. It prints the proposal's id; the others
    read it with `atpar proposals show` and agree with `atpar approve`. The last approval runs it.

    Example: atpar propose mint --to ALFA/treasury --amount 100.00 --asset HKD.JDCL
    --funding-ref 6c1f…
    """
    state.proposal_expires_ms = parse_deadline("--expires", expires)


@propose_command.command(name="file")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@signing_options
@pass_state
def propose_file(state: State, *, file: Path, how: How) -> None:
    """Put the operations of a file to those who must agree: all of them happen, or none.

    FILE is a transaction file, or a JSON list of operations as `atpar tx new --ops` takes it.

    Example: atpar propose file exchange.json
    """
    session = Session(state)
    ops = _read_bundle(file)
    if not ops:
        raise refused("NO_OPERATIONS", f"{file}: a proposal needs at least one operation")
    session.run(session.find_speaker([], ops, how.keys), ops, how)


def _read_bundle(path: Path) -> tuple[Operation, ...]:
    data = read_input(path, max_bytes=4 * MAX_TRANSACTION_BYTES)
    if data.lstrip()[:1] == b"{" and FORMAT.encode() in data:
        ops = read_tx_file(path).body.ops
        if any(not isinstance(op, BundledOperation) for op in ops):
            raise WrongUsage(
                f"{path}: holds an operation that no bundle may hold",
                advice="proposals, decisions and voids stand alone",
            )
        return ops
    try:
        return from_json(_Bundle, {"ops": json.loads(data)}).ops
    except (ValueError, RecursionError) as error:
        raise WrongUsage(f"{path}: not JSON: {error}", advice="give a list of objects") from error
    except JsonInvalid as error:
        raise WrongUsage(f"{path}: {error}", advice="correct that field") from error


# ---- the checker


@click.command(name="approve")
@PROPOSAL
@PIN
@signing_options
@pass_state
def approve_command(state: State, *, how: How, proposal: str, pinned: str | None) -> None:
    """Agree to a proposal, after reading it. The approval that completes it runs it.

    Signs with one key that has not spoken yet and concerns it; the maker's own does not count
    twice. If the operations fail, this approval fails with their code and the proposal stays open.

    Example: atpar approve 5d0e…
    """
    _decide(state, Decision.APPROVE, how, proposal, pinned)


@click.command(name="reject")
@PROPOSAL
@PIN
@signing_options
@pass_state
def reject_command(state: State, *, how: How, proposal: str, pinned: str | None) -> None:
    """Refuse to agree to a proposal. It closes once those who remain could not complete it.

    Example: atpar reject 5d0e…
    """
    _decide(state, Decision.REJECT, how, proposal, pinned)


@click.command(name="withdraw")
@PROPOSAL
@PIN
@signing_options
@pass_state
def withdraw_command(state: State, *, how: How, proposal: str, pinned: str | None) -> None:
    """Take a proposal back, as its maker.

    Example: atpar withdraw 5d0e…
    """
    _decide(state, Decision.WITHDRAW, how, proposal, pinned)


def _decide(state: State, decision: Decision, how: How, text: str, pinned: str | None) -> None:
    session = Session(state)
    proposal_id = parse_hash("proposal", text)
    answer = fetch(state, f"/v1/proposals/{proposal_id.hex()}")["proposal"]
    found = make_proposal(answer)
    # Computed from what is shown, never taken over.
    bundle_hash = compute_bundle_hash(found.ops, found.expires_at_ms)
    if pinned is not None and parse_hash("--hash", pinned) != bundle_hash:
        raise refused("UNKNOWN_PROPOSAL", f"the bundle hashes to {bundle_hash.hex()}, not {pinned}")
    if decision is Decision.WITHDRAW:
        sender = found.sender
    else:
        spent = {verdict.key for verdict in found.verdicts}
        waiting = [each["account"] for each in answer["principals"] if not each["is_met"]]
        sender = session.find_speaker(waiting, found.ops, how.keys, spent=spent)
    op = Approve(proposal=proposal_id, bundle_hash=bundle_hash, decision=decision)
    session.run(
        how.sender or sender,
        [op],
        how,
        follow=lambda sent: _follow(state, proposal_id, found, decision, sent),
    )


def _follow(
    state: State, proposal_id: bytes, proposal: Proposal, decision: Decision, sent: Sent
) -> dict[str, Any]:
    """Return what became of the proposal, with the ids that its operations made."""
    is_open = _ask_whether_open(state, proposal_id, sent.final.verified.block.height)
    executed = None if is_open is None else decision is Decision.APPROVE and not is_open
    made = find_made(proposal.sender, proposal_id, proposal.ops) if executed else {}
    return {
        "proposal": proposal_id.hex(),
        "decision": decision.value,
        "is_open": is_open,
        "executed": executed,
        **made,
    }


def _ask_whether_open(state: State, proposal_id: bytes, height: int) -> bool | None:
    """Return whether a proposal is still open at a height, None where that cannot be told."""
    try:
        if fetch(state, "/v1/status")["read_height"] < height:
            return None
        fetch(state, f"/v1/proposals/{proposal_id.hex()}")
    except RefusedByLedger as error:
        return False if error.code == "UNKNOWN_PROPOSAL" else None
    except CliError:
        return None
    return True


# ---- looking


@click.group(name="proposals", invoke_without_command=True)
@output_options
@node_options
@click.pass_context
def proposals_command(context: click.Context) -> None:
    """List open proposals, and show one in full.

    Example: atpar proposals
    """
    if context.invoked_subcommand is None:
        context.invoke(list_proposals, sender=None, principal=None, limit=None)


@proposals_command.command(name="list")
@click.option("--sender", metavar="ACCOUNT", help="Only those that this account made.")
@click.option("--principal", metavar="ACCOUNT", help="Only those that it has to agree to.")
@LIMIT
@output_options
@node_options
@pass_state
def list_proposals(
    state: State, *, sender: str | None, principal: str | None, limit: int | None
) -> None:
    """List open proposals and who has yet to agree.

    Example: atpar proposals list --principal CUST/reserve
    """
    for account in (sender, principal):
        if account is not None:
            check_account(account)
    first, items = fetch_all(
        state, "/v1/proposals", "proposals", limit=limit, sender=sender, principal=principal
    )
    rows = [
        (
            each["proposal"],
            each["sender"],
            ", ".join(op["op"] for op in each["ops"]),
            ", ".join(p["account"] for p in each["principals"] if not p["is_met"]) or None,
            format_time(each["expires_at_ms"]),
        )
        for each in items
    ]
    headings = ("proposal", "from", "operations", "waits for", "until")
    state.output.show({**first, "proposals": items}, table(headings, rows))


@proposals_command.command(name="show")
@PROPOSAL
@output_options
@node_options
@pass_state
def show_proposal(state: State, *, proposal: str) -> None:
    """Show a proposal decoded, and who has yet to agree.

    Example: atpar proposals show 5d0e…
    """
    session = Session(state)
    proposal_id = parse_hash("proposal", proposal)
    answer = fetch(state, f"/v1/proposals/{proposal_id.hex()}")
    form = answer["proposal"]
    found = make_proposal(form)
    computed = compute_bundle_hash(found.ops, found.expires_at_ms).hex()
    if computed != form["bundle_hash"]:
        raise refused(
            "UNKNOWN_PROPOSAL",
            f"the node says its bundle hashes to {form['bundle_hash']}, it hashes to {computed}",
        )
    assets = session.find_assets(found.ops)
    lines = [
        *fields(
            [
                ("proposal", proposal_id.hex()),
                ("from", found.sender),
                ("bundle hash", computed),
                ("placed", format_time(found.placed_at_ms)),
                ("until", format_time(found.expires_at_ms)),
                ("read at height", answer["read_height"]),
            ]
        ),
        *describe_bundle(found.ops, session.chain.scales, assets),
        "",
        *table(
            ("principal", "has agreed"),
            [(each["account"], each["is_met"]) for each in form["principals"]],
        ),
        *(f"{each.decision.value} by key {each.key.hex()}" for each in found.verdicts),
    ]
    summaries = [summarise(op, session.chain.scales) for op in found.ops]
    data = {
        **answer,
        "operations": [operation_name(type(op)) for op in found.ops],
        "summaries": summaries,
        "waits_for": [each["account"] for each in form["principals"] if not each["is_met"]],
    }
    state.output.show(data, lines)
