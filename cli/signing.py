"""From operations to a final receipt: build the body, show it, sign it, send it, save the proof.

Every command that signs goes through here, so all of them show exactly what will be signed, decoded
from the very bytes; ask on a terminal unless `--yes`; can write a file for other signers instead of
sending (`-o`); and report the same way.
"""

import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from atpar.cli.chain import Chain, load_chain
from atpar.cli.context import (
    DEFAULT_TIMEOUT_S,
    State,
    keys_options,
    node_options,
    output_options,
)
from atpar.cli.describe import (
    describe_body,
    describe_bundle,
    format_time,
    get_debtors,
    summarise,
)
from atpar.cli.errors import (
    CliError,
    ConfigurationProblem,
    InternalProblem,
    Interrupted,
    KeystoreProblem,
    OutcomeUnknown,
    RefusedByLedger,
    WrongUsage,
    explain,
    refused,
)
from atpar.cli.fetch import fetch
from atpar.cli.files import write_new, write_over
from atpar.cli.keyring import KeyRing, NamedKey
from atpar.cli.remote import (
    Authority,
    Look,
    Principal,
    compute_authority,
    list_targets,
    make_look,
)
from atpar.cli.submit import Sent, get_ids, send_until_final
from atpar.cli.txfile import TxFile
from atpar.ledger.authority import compute_bundle_hash, get_policy
from atpar.ledger.codec import encode
from atpar.ledger.codes import Code
from atpar.ledger.context import compute_entry_id
from atpar.ledger.errors import Refused
from atpar.ledger.hashing import HashTag, SignKind
from atpar.ledger.operations import (
    Approve,
    Assign,
    Capture,
    Freeze,
    Hold,
    Operation,
    Propose,
    Redeem,
    SetAsset,
)
from atpar.ledger.records import HOLDS, PROPOSALS, Proposal
from atpar.ledger.state import View
from atpar.ledger.transactions import BODY, VERSION, Body, Transaction, decode_transaction

F = TypeVar("F", bound=Callable[..., Any])

WINDOW_S: Final = 3_600
EXCHANGE_WINDOW_S: Final = 60
"""Of an exchange: whoever signs second holds a free option for as long as the window is open."""
CLOCK_SKEW_MS: Final = 5_000
"""A window starts this much in the past, so that a fast clock here is no obstacle."""


@dataclass(frozen=True, slots=True)
class How:
    """The options that every signing command has."""

    keys: tuple[str, ...] = ()
    yes: bool = False
    out: Path | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    valid_for_s: int | None = None
    sender: str | None = None
    tx_id: str | None = None


def signing_options(function: F) -> F:
    """Add the options of commands that sign; they arrive as one keyword argument `how`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        how = How(
            keys=kwargs.pop("key_names"),
            yes=kwargs.pop("yes"),
            out=kwargs.pop("out"),
            timeout_s=kwargs.pop("timeout"),
            valid_for_s=kwargs.pop("valid_for"),
            sender=kwargs.pop("sender"),
            tx_id=kwargs.pop("tx_id"),
        )
        return function(*args, how=how, **kwargs)

    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    wrapper.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: F = output_options(node_options(keys_options(decorated)))
    return result


_OPTIONS: Final = (
    click.option(
        "--key",
        "key_names",
        multiple=True,
        metavar="NAME",
        help="Sign with this key; repeat for more (default: the keys here that are needed).",
    ),
    click.option("--as", "sender", metavar="ACCOUNT", help="The sending account, if another."),
    click.option("--yes", is_flag=True, help="Do not ask before signing."),
    click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write a transaction file for others to sign, instead of sending.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0.1, 86_400),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        help="Seconds to wait until it is final.",
    ),
    click.option(
        "--valid-for",
        type=click.IntRange(1, 86_395),
        help="Seconds (default: an hour; a minute for an exchange).",
    ),
    click.option("--tx-id", metavar="UUID", help="Idempotency key (default: a fresh one)."),
)


class Session:
    """One signing command: the chain, what a node knows of it, and the keys at hand."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.chain: Chain = load_chain(state)
        self.ring = KeyRing(state)
        self._look: Look | None = None

    @property
    def look(self) -> Look:
        """Where policies are looked up: at a node, or in the genesis document."""
        if self._look is None:
            self._look = make_look(self.state, self.chain)
        return self._look

    @property
    def view(self) -> View:
        """The state to look policies up in: a node's, or the genesis state."""
        return self.look.view

    def demand_node(self) -> None:
        """Check that a node answers, before anything is signed that is to be sent.

        Raises:
            NodeUnreachable, NotReady: none does.
        """
        if self.look.failure is not None:
            raise self.look.failure

    def get_scale(self, asset: str) -> int:
        """Return an asset's scale: from the genesis document, else from a node.

        Raises:
            CliError: neither knows it.
        """
        if asset not in self.chain.scales:
            answer = fetch(self.state, f"/v1/assets/{asset}")
            self.chain.scales[asset] = int(answer["scale"])
            self.chain.told.add(asset)
        return self.chain.scales[asset]

    def get_terms(self, asset: str) -> Any:
        """Return the terms of an asset in force.

        Raises:
            RefusedByLedger: UNKNOWN_ASSET.
        """
        from atpar.ledger.reads import get_asset

        found = get_asset(self.view, asset)
        if found is None:
            raise refused("UNKNOWN_ASSET", f"no asset {asset}")
        return found.terms

    # ---- building

    def build_body(self, sender: str, ops: Sequence[Operation], how: How) -> bytes:
        """Return the bytes of a new body, checked to be a body.

        Raises:
            NonCanonical: a value is out of its range.
        """
        now_ms = time.time_ns() // 1_000_000
        tx_id = parse_uuid("--tx-id", how.tx_id) if how.tx_id else uuid.uuid4().bytes
        body = Body(
            version=VERSION,
            chain_id=self.chain.chain_id,
            sender=how.sender or sender,
            tx_id=tx_id,
            valid_from_ms=now_ms - CLOCK_SKEW_MS,
            valid_until_ms=now_ms,
            ops=tuple(ops),
        )
        window_s = EXCHANGE_WINDOW_S if len(get_debtors(body)) > 1 else WINDOW_S
        until_ms = now_ms + 1_000 * (how.valid_for_s or window_s)
        return encode(
            Body(
                body.version,
                body.chain_id,
                body.sender,
                body.tx_id,
                body.valid_from_ms,
                until_ms,
                body.ops,
            )
        )

    def show(self, body_bytes: bytes) -> None:
        """Show what a signature of these bytes agrees to, on stderr.

        Raises:
            NonCanonical: the bytes are not a transaction body.
        """
        body = BODY.decode(body_bytes)
        proposals = self._find_proposals(body.ops)
        assets = self.find_assets([*body.ops, *(op for each in proposals for op in each.ops)])
        lines = describe_body(
            body_bytes,
            chain_id=self.chain.chain_id,
            chain_name=self.chain.name,
            scales=self.chain.scales,
            assets=assets,
        )
        for proposal in proposals:
            lines += [
                f"the proposal of {proposal.sender}, until {format_time(proposal.expires_at_ms)}:",
                *describe_bundle(proposal.ops, self.chain.scales, assets),
            ]
        for line in lines:
            self.state.output.note(line)
        for asset in sorted(self.chain.told):
            self.state.output.warn(
                f"the scale of {asset} is a node's word: it is younger than the genesis document"
            )

    def _find_proposals(self, ops: Sequence[Operation]) -> list[Proposal]:
        """Return the proposals that decisions are about, each as its hash says.

        Raises:
            RefusedByLedger: UNKNOWN_PROPOSAL, a decision names another bundle than is there.
        """
        found = []
        for op in ops:
            if not isinstance(op, Approve):
                continue
            proposal = self.view.get(PROPOSALS, op.proposal)
            if proposal is None:
                self.state.output.warn(f"proposal {op.proposal.hex()} is not open, as far as known")
                continue
            shown = compute_bundle_hash(proposal.ops, proposal.expires_at_ms)
            if shown != op.bundle_hash:
                raise refused(
                    "UNKNOWN_PROPOSAL",
                    f"the bundle of {op.proposal.hex()} hashes to {shown.hex()},"
                    f" the decision is about {op.bundle_hash.hex()}",
                )
            found.append(proposal)
        return found

    def find_assets(self, ops: Iterable[Operation]) -> dict[bytes, str]:
        """Return the assets of the holds that operations name; learn the scales of all assets."""
        found: dict[bytes, str] = {}
        for op in ops:
            if isinstance(op, Propose):
                found |= self.find_assets(op.ops)
            with contextlib.suppress(CliError, Refused):
                asset = getattr(op, "asset", None)
                if isinstance(op, Capture | Assign):
                    hold = self.view.get(HOLDS, op.hold)
                    asset = None if hold is None else hold.asset
                    if asset is not None:
                        found[op.hold] = asset
                if asset is not None and not isinstance(op, SetAsset):
                    self.get_scale(asset)
        return found

    # ---- signing

    def compute_authority(self, file: TxFile) -> Authority:
        """Return who must agree to a body, and how far its signatures go."""
        signers = list(file.signatures)
        is_current = self.look.failure is None
        return compute_authority(self.view, file.body, signers, is_current=is_current)

    def sign(self, file: TxFile, how: How) -> TxFile:
        """Return the file with the signatures of the chosen keys, after review and consent.

        Raises:
            KeystoreProblem: no key here is needed, or one does not open.
            Interrupted: the person declined.
        """
        if file.body.chain_id != self.chain.chain_id:
            raise refused(
                "WRONG_CHAIN",
                f"the transaction is for chain {file.body.chain_id.hex()}, this is"
                f" {self.chain.chain_id.hex()} ({self.chain.name})",
            )
        keys = self.choose_keys(file, how.keys)
        output = self.state.output
        self.show(file.body_bytes)
        output.note(f"signing with {', '.join(key.name for key in keys)}")
        if not how.yes and output.is_interactive() and not click.confirm("Sign this?", err=True):
            raise Interrupted("not confirmed: nothing was signed", advice="run it again when ready")
        signatures = []
        for key in keys:
            signer = self.ring.open(key)
            signature = signer.sign(SignKind.TRANSACTION, file.body.chain_id, file.body_bytes)
            signatures.append((signer.public_key, signature))
        return file.add(signatures)

    def choose_keys(self, file: TxFile, names: Sequence[str]) -> list[NamedKey]:
        """Return the keys to sign with: those named, else as few as the policies still need.

        Raises:
            KeystoreProblem: none is needed, or none is there.
            RefusedByLedger: UNKNOWN_ACCOUNT, of an account that would have to sign.
        """
        if names:
            return [self.ring.find(name) for name in names]
        authority = self.compute_authority(file)
        if authority.missing and authority.is_current:
            raise refused("UNKNOWN_ACCOUNT", f"no account {', '.join(authority.missing)}")
        at_hand = {key.public_key: key for key in self.ring.list_usable()}
        chosen: dict[bytes, NamedKey] = {}
        for principal in authority.principals:
            _add_needed(principal, at_hand, chosen, set(file.signatures))
        if not chosen:
            wanted = "; ".join(self.describe_missing(each) for each in authority.unmet)
            raise KeystoreProblem(
                f"no key in {self.ring.folder} is needed here"
                + (f": {wanted}" if wanted else ": the signatures are complete"),
                advice="use --keys DIR of the signer, or --key NAME",
            )
        return list(chosen.values())

    def describe_missing(self, principal: Principal) -> str:
        """Return who can still sign for a principal, by the names of keys where they are known."""
        names = {key.public_key: key.name for key in self.ring.list_usable()}
        keys = ", ".join(
            names.get(entry.key, entry.key.hex())
            + (" (has spoken)" * (entry.key in principal.spent))
            for entry in principal.policy.keys
        )
        return (
            f"{principal.account} has {principal.weight} of {principal.policy.threshold};"
            f" its keys: {keys}"
        )

    def demand_complete(self, file: TxFile) -> None:
        """Check that every principal's policy is met, as far as can be known here.

        Raises:
            RefusedByLedger: UNAUTHORISED, naming the keys that are missing.
        """
        unmet = self.compute_authority(file).unmet
        if unmet:
            error = refused(
                "UNAUTHORISED",
                "signatures are missing: " + "; ".join(self.describe_missing(u) for u in unmet),
                missing=[
                    {
                        "account": each.account,
                        "weight": each.weight,
                        "threshold": each.policy.threshold,
                        "keys": [
                            entry.key.hex()
                            for entry in each.policy.keys
                            if entry.key not in file.signatures
                        ],
                    }
                    for each in unmet
                ],
            )
            error.advice = (
                "sign with more keys (--key), or write a file for the others with -o tx.json:"
                " they run `atpar tx sign`, then one runs `atpar tx send`"
            )
            raise error

    # ---- the two ways to end

    def run(
        self,
        sender: str,
        ops: Sequence[Operation],
        how: How,
        *,
        follow: Callable[[Sent], dict[str, Any]] | None = None,
    ) -> None:
        """Build, show, sign, and send or write a file; under `atpar propose` put it to a vote.

        `follow` adds to the report of what was sent and has become final.
        """
        if how.out is None:
            self.demand_node()
        if self.state.proposal_expires_ms is not None:
            bundled: Any = tuple(ops)
            sender = how.sender or self.find_speaker([sender], bundled, how.keys)
            how = replace(how, sender=None)
            ops = [Propose(bundled, self.state.proposal_expires_ms)]
        file = TxFile(self.build_body(sender, ops, how), {})
        signed = self.sign(file, how)
        if how.out is not None:
            self.write(signed, how.out)
        else:
            self.send(signed, how.timeout_s, follow=follow)

    def find_speaker(
        self,
        first: Sequence[str],
        ops: Sequence[Operation],
        names: Sequence[str],
        *,
        spent: Set[bytes] = frozenset(),
    ) -> str:
        """Return the account to propose or decide as: one that is concerned, with a key here.

        Those of `first` are asked first; keys that are `spent` do not count. Without any key for
        any of them it is the first.
        """
        targets = list_targets(self.view, ops)
        asked = [*(account for account in first if account in targets), *targets]
        return self.find_account(asked, names, spent=spent) or asked[0]

    def find_account(
        self, accounts: Sequence[str], names: Sequence[str], *, spent: Set[bytes] = frozenset()
    ) -> str | None:
        """Return the first account for which a key is here that is not `spent`, or None."""
        keys = [self.ring.find(name) for name in names] if names else self.ring.list_usable()
        at_hand = {key.public_key for key in keys} - spent
        for account in dict.fromkeys(accounts):
            if any(entry.key in at_hand for entry in get_policy(self.view, account).keys):
                return account
        return None

    def write(self, file: TxFile, path: Path, *, replace: bool = False) -> None:
        """Write a transaction file and say who still has to sign."""
        (write_over if replace else write_new)(path, file.render())
        authority = self.compute_authority(file)
        unmet = authority.unmet
        tx = decode_transaction(file.compute_envelope())
        lines = [f"{path}: {len(file.signatures)} signatures"]
        lines += [f"missing: {self.describe_missing(each)}" for each in unmet]
        lines += [f"unknown here: {reason}" for reason in authority.unknown]
        if not authority.is_current:
            lines.append("no node answered: policies are those of the genesis document")
        complete = not unmet and not authority.unknown
        lines.append(f"next: atpar tx {'send' if complete else 'sign'} {path}")
        self.state.output.show(
            {
                "file": str(path),
                "sender": tx.body.sender,
                "tx_id": tx.body.tx_id.hex(),
                "body_hash": tx.body_hash.hex(),
                "signatures": len(file.signatures),
                "complete": complete,
                "missing": [each.account for each in unmet],
                "valid_until_ms": tx.body.valid_until_ms,
            },
            lines,
        )

    def send(
        self,
        file: TxFile,
        timeout_s: float,
        *,
        follow: Callable[[Sent], dict[str, Any]] | None = None,
    ) -> None:
        """Submit, wait until final, save the proof, report.

        Raises:
            CliError: as `send_until_final`; RefusedByLedger also when the receipt says so.
        """
        self.demand_node()
        self.demand_complete(file)
        tx = decode_transaction(file.compute_envelope())
        folder = self.state.get_receipts_path()
        pending = folder / f"{tx.body.tx_id.hex()}.pending.json"
        _make_folder(folder)
        # The bytes are on disk before they are sent: whatever happens, they can be sent again.
        # A file from an earlier try is kept until the outcome is certain: that try may have worked.
        was_pending = pending.exists()
        write_over(pending, file.render())
        try:
            sent = send_until_final(self.state, self.chain, tx, timeout_s=timeout_s)
        except BaseException as error:
            found = explain(error)
            if isinstance(found, RefusedByLedger) or not (was_pending or _is_open(found)):
                pending.unlink()
                raise
            found.details.setdefault("file", str(pending))
            self.state.output.note(f"the signed bytes are in {pending}")
            if isinstance(found, Interrupted):
                raise make_interrupted(tx, pending) from error
            raise
        receipt = folder / f"{tx.body.tx_id.hex()}.json"
        write_over(receipt, sent.final.render_proof())
        pending.unlink(missing_ok=True)
        self._report(tx, sent, receipt, follow)

    def _report(
        self,
        tx: Transaction,
        sent: Sent,
        receipt: Path,
        follow: Callable[[Sent], dict[str, Any]] | None,
    ) -> None:
        final, block = sent.final, sent.final.verified.block
        accepted = "" if sent.accepted_ms is None else f"accepted {sent.accepted_ms:.0f} ms → "
        line = (
            f"{accepted}FINAL #{block.height} in {sent.final_ms:.0f} ms"
            f" ({len(block.signers)} of {block.validators} signatures)"
        )
        is_done = final.code is Code.OK
        made = find_made(tx.body.sender, tx.body.tx_id, tx.body.ops) if is_done else {}
        if follow is not None and is_done:
            made |= follow(sent)
        data = {
            "status": "final",
            **get_ids(final.transaction),
            "height": block.height,
            "index": final.index,
            "timestamp_ms": block.timestamp_ms,
            "accepted_ms": _round(sent.accepted_ms),
            "final_ms": _round(sent.final_ms),
            "signatures": len(block.signers),
            "validators": block.validators,
            "receipt": str(receipt),
            **made,
        }
        if final.code is not Code.OK:
            self.state.output.note(line)
            self.state.output.note(f"receipt {receipt}")
            number = final.failed_op or 0
            op = summarise(final.transaction.body.ops[number], self.chain.scales)
            raise refused(final.code.name, f"operation {number + 1}, {op}", **data)
        lines = [line, *_draw_made(made), f"receipt {receipt}"]
        self.state.output.show({"code": final.code.name, **data}, lines)


def _is_open(error: CliError) -> bool:
    """Return whether a transaction may have happened in spite of an error."""
    return isinstance(error, OutcomeUnknown | Interrupted | InternalProblem)


def _add_needed(
    principal: Principal,
    at_hand: dict[bytes, NamedKey],
    chosen: dict[bytes, NamedKey],
    signed: set[bytes],
) -> None:
    """Add keys of a principal until its threshold is met, those already chosen counting first."""
    entries = principal.policy.keys
    weight = sum(e.weight for e in entries if e.key in signed or e.key in chosen)
    for entry in sorted(entries, key=lambda e: _name_of(at_hand.get(e.key))):
        if weight >= principal.policy.threshold:
            return
        if entry.key in principal.spent:
            continue
        if entry.key in at_hand and entry.key not in chosen and entry.key not in signed:
            chosen[entry.key] = at_hand[entry.key]
            weight += entry.weight


def _name_of(key: NamedKey | None) -> str:
    return key.name if key is not None else ""


_MADE: Final = (
    (Redeem, HashTag.HOLD, "redemption"),
    (Hold, HashTag.HOLD, "hold"),
    (Freeze, HashTag.FREEZE, "freeze"),
    (Propose, HashTag.PROPOSAL, "proposal"),
)


def find_made(sender: str, tx_id: bytes, ops: Sequence[Operation]) -> dict[str, Any]:
    """Return the ids of the first of each kind that operations make, by kind.

    Of a bundle that was approved `tx_id` is the proposal's id.
    """
    made: dict[str, Any] = {}
    for index, op in enumerate(ops):
        for kind, tag, name in _MADE:
            if isinstance(op, kind) and name not in made:
                made[name] = compute_entry_id(tag, sender, tx_id, index).hex()
    return made


def _draw_made(made: dict[str, Any]) -> list[str]:
    words = {True: "yes", False: "no", None: "not known"}
    return [
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else words[value]}"
        for name, value in made.items()
    ]


def make_interrupted(tx: Transaction, pending: Path) -> Interrupted:
    """Return the error for an interruption while a transaction was on its way."""
    return Interrupted(
        f"interrupted while {tx.body.tx_id.hex()} was on its way: its outcome is unknown",
        advice=f"atpar tx show {tx.hash.hex()}, or atpar tx send {pending}",
        file=str(pending),
        **get_ids(tx),
    )


def parse_uuid(option: str, text: str) -> bytes:
    """Return the 16 bytes of a UUID typed in any usual form.

    Raises:
        WrongUsage: it is none.
    """
    try:
        return uuid.UUID(text).bytes
    except ValueError as error:
        raise WrongUsage(
            f"{option} {text!r} is not a UUID", advice=f"such as {uuid.UUID(bytes=_example())}"
        ) from error


def parse_hash(option: str, text: str) -> bytes:
    """Return the 32 bytes of a hash in hex.

    Raises:
        WrongUsage: it is none.
    """
    from atpar.cli.chain import is_hash

    if not is_hash(text):
        raise WrongUsage(f"{option} {text!r} is not 64 hex digits", advice="copy it whole")
    return bytes.fromhex(text)


def _example() -> bytes:
    return uuid.UUID(bytes=secrets.token_bytes(16), version=4).bytes


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationProblem(
            f"{folder}: {error.strerror}", advice="use --home DIR in a folder you can write to"
        ) from error
