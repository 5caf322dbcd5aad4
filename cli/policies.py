"""Policies as people write them: `2:maker,checker`, with the proofs that the keys' owners agree.

A key is named as in the folder of keys, or given as a public key in hex whose owner made a proof
with `atpar keys prove` on another machine.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from atpar.cli.errors import WrongUsage
from atpar.cli.files import read_input
from atpar.cli.keyring import KeyRing
from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind
from atpar.ledger.keys import verify_possession
from atpar.ledger.limits import MAX_POLICY_KEYS, MAX_WEIGHT
from atpar.ledger.operations import Policy, Possession, WeightedKey

POLICY_HELP: Final = "THRESHOLD:KEY,KEY*WEIGHT,…"
MAX_PROOF_BYTES: Final = 4_096


class _ProofForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    participant: str
    key: str
    signature: str
    chain_id: str


class Prover:
    """Finds keys by name and proves possession of them, for one participant on one chain."""

    def __init__(self, ring: KeyRing, *, participant: str, chain_id: bytes) -> None:
        self._ring = ring
        self._participant = participant
        self._chain_id = chain_id
        self._proofs: dict[bytes, bytes] = {}

    def add_proofs(self, paths: Iterable[Path]) -> None:
        """Take in proofs that others made.

        Raises:
            WrongUsage: a file is no proof, or is for another participant or chain, or is invalid.
        """
        for path in paths:
            key, signature = self._read_proof(path)
            self._proofs[key] = signature

    def find_key(self, name: str) -> bytes:
        """Return the public key of a name in the folder, or of a proof given by its hex."""
        for key in self._proofs:
            if key.hex() == name.lower():
                return key
        return self._ring.find(name).public_key

    def prove(self, name: str) -> bytes:
        """Return the proof of possession, given by its owner or signed here."""
        key = self.find_key(name)
        if key in self._proofs:
            return self._proofs[key]
        signer = self._ring.open(self._ring.find(name))
        return signer.sign(SignKind.POSSESSION, self._chain_id, encode((self._participant, key)))

    def parse_policy(self, spec: str) -> tuple[Policy, list[str]]:
        """Return the policy that a spec like `2:maker,checker*2` says, and the names in it.

        Raises:
            WrongUsage: it is not of that form, or no signatures could satisfy it.
        """
        head, colon, tail = spec.partition(":")
        names, keys = [], {}
        for item in tail.split(",") if tail else []:
            name, star, weight = item.strip().partition("*")
            if star and not (weight.isascii() and weight.isdigit()):
                raise _bad_policy(spec, f"{weight!r} is no weight")
            key = self.find_key(name)
            if key in keys:
                raise _bad_policy(spec, f"{name} is named twice")
            keys[key] = int(weight) if star else 1
            names.append(name)
        if not colon or not keys or not (head.isascii() and head.isdigit()):
            raise _bad_policy(spec, "not of the form THRESHOLD:KEY,KEY")
        threshold, total = int(head), sum(keys.values())
        if not 1 <= threshold <= total:
            raise _bad_policy(spec, f"threshold {threshold}, the weights sum to {total}")
        if len(keys) > MAX_POLICY_KEYS or not all(1 <= w <= MAX_WEIGHT for w in keys.values()):
            raise _bad_policy(spec, f"at most {MAX_POLICY_KEYS} keys of weight 1 to {MAX_WEIGHT}")
        weighted = tuple(WeightedKey(key, keys[key]) for key in sorted(keys))
        return Policy(weighted, threshold), names

    def prove_all(self, names: Iterable[str]) -> tuple[Possession, ...]:
        """Return the proofs for these keys, in the order that the ledger wants."""
        proofs = {self.find_key(name): self.prove(name) for name in names}
        return tuple(Possession(key, proofs[key]) for key in sorted(proofs))

    def _read_proof(self, path: Path) -> tuple[bytes, bytes]:
        data = read_input(path, max_bytes=MAX_PROOF_BYTES)
        try:
            form = msgspec.json.decode(data, type=_ProofForm)
            key, signature = bytes.fromhex(form.key), bytes.fromhex(form.signature)
        except (msgspec.DecodeError, ValueError) as error:
            raise WrongUsage(
                f"{path}: not a proof of possession: {error}",
                advice="`atpar keys prove NAME --participant CODE --json > FILE` makes one",
            ) from error
        if form.participant != self._participant or form.chain_id != self._chain_id.hex():
            raise WrongUsage(
                f"{path}: made for {form.participant} on chain {form.chain_id[:16]}, needed for"
                f" {self._participant} on {self._chain_id.hex()[:16]}",
                advice="ask for a new proof; for a genesis document use --for-genesis",
            )
        if not verify_possession(
            self._chain_id, participant=self._participant, public_key=key, signature=signature
        ):
            raise WrongUsage(f"{path}: the signature is not valid", advice="ask for a new proof")
        return key, signature


def _bad_policy(spec: str, reason: str) -> WrongUsage:
    return WrongUsage(f"policy {spec!r}: {reason}", advice="for example 2:maker,checker")
