"""The people of the fictional institutions: they sign with the keys in a testnet's folder.

Sends transactions that a testnet needs for itself: attestations, and funding for load. Everything
that a person does goes through the ordinary commands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from atpar.cli.errors import NodeUnreachable, OutcomeUnknown, refused
from atpar.cli.testnet.ask import NoAnswer, ask, exchange
from atpar.cli.testnet.network import now_ms
from atpar.cli.testnet.payments import Signed, sign
from atpar.cli.testnet.recipe import AUDITOR, CUSTODIAN, build_institutions
from atpar.cli.testnet.record import PASSPHRASE, TestnetRecord, get_key_path
from atpar.ledger.hashing import HashTag, compute_hash
from atpar.ledger.operations import AttestReserve, Operation
from atpar.ledger.types import Role
from atpar.node.signer import LocalSigner, open_file_signer

ATTESTED: Final = 10_000_000_00
"""Minor units that the fictional reserve of each asset holds."""
WAIT_S: Final = 10
MESSAGEPACK: Final = "application/msgpack"


@dataclass
class Officers:
    """Opens keys when they are needed, each once."""

    folder: Path
    record: TestnetRecord
    _signers: dict[tuple[str, str], LocalSigner] = field(default_factory=dict)

    def get_signers(self, account: str) -> list[LocalSigner]:
        """Return signers that together satisfy the account's policy."""
        code, _, name = account.partition("/")
        institutions = build_institutions(
            len(self.record.validators), load_accounts=self.record.load_accounts
        )
        (owner,) = (each for each in institutions if each.code == code)
        threshold, keys = owner.accounts[name]
        return [self._open(code, key) for key in keys[:threshold]]

    def _open(self, code: str, key: str) -> LocalSigner:
        if (code, key) not in self._signers:
            path = get_key_path(self.folder, code, key)
            self._signers[code, key] = open_file_signer(path, PASSPHRASE)
        return self._signers[code, key]

    def sign(self, sender: str, ops: Sequence[Operation], *also: str) -> Signed:
        """Return a transaction signed for its sender and for further accounts."""
        signers = {
            signer.public_key: signer
            for account in (sender, *also)
            for signer in self.get_signers(account)
        }
        chain_id = bytes.fromhex(self.record.chain)
        return sign(chain_id, sender, ops, list(signers.values()), now_ms=now_ms())

    def send(self, signed: Signed) -> dict[str, Any]:
        """Submit to the first node that answers and wait until final; return the node's answer.

        Raises:
            NodeUnreachable: no node answered.
            RefusedByLedger: definitive, with the code.
            OutcomeUnknown: not final in time.
        """
        for validator in self.record.validators:
            try:
                _, answer = exchange(
                    validator.api,
                    "/v1/transactions",
                    body=msgspec.msgpack.encode([signed.raw]),
                    headers={
                        "content-type": MESSAGEPACK,
                        "accept": "application/json",
                        "prefer": f"wait={WAIT_S}",
                    },
                    timeout_s=WAIT_S + 5,
                )
            except NoAnswer:
                continue
            body = msgspec.json.decode(answer)
            if "results" not in body:
                raise refused(str(body.get("code")), str(body.get("detail", "")))
            found: dict[str, Any] = body["results"][0]
            if found["status"] == "rejected" or found["code"] != "OK":
                raise refused(found["code"], found["message"])
            if found["status"] != "final":
                raise OutcomeUnknown(
                    f"not final within {WAIT_S} s: {signed.hash.hex()}",
                    advice="look it up: atpar tx show",
                )
            return found
        raise NodeUnreachable("no validator answers", advice="atpar testnet status")

    def attest(self, asset: str, *, amount: int = ATTESTED) -> dict[str, Any]:
        """Let the custodian attest the reserve of an asset, and the auditor countersign."""
        return self.send(self.make_attestation(asset, amount=amount))

    def make_attestation(self, asset: str, *, amount: int) -> Signed:
        """Return an attestation by the custodian, countersigned in the same transaction."""
        found = self._ask_asset(asset)
        reserve = found.get("reserve")
        sequence = 1 if reserve is None else int(reserve["sequence"]) + 1
        as_of_ms = int(found["read_timestamp_ms"])
        report = f"reserve of {asset}, sequence {sequence}: {amount}"
        report_hash = compute_hash(HashTag.BODY, report.encode())
        custodian, auditor = f"{CUSTODIAN}/reserve", f"{AUDITOR}/audit"
        ops = [
            AttestReserve(asset, by, sequence, as_of_ms, amount, (), report_hash)
            for by in (Role.CUSTODIAN, Role.AUDITOR)
        ]
        return self.sign(custodian, ops, auditor)

    def _ask_asset(self, asset: str) -> dict[str, Any]:
        for validator in self.record.validators:
            found = ask(validator.api, f"/v1/assets/{asset}")
            if found is not None:
                return found
        raise NodeUnreachable("no validator answers", advice="atpar testnet status")
