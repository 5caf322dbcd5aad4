"""Whole nodes on real sockets cross epochs; one leaves the set and is let go."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import astuple, replace

from atpar.cli.testnet import recipe
from atpar.cli.testnet.lifecycle import prepare
from atpar.cli.testnet.network import stop_network
from atpar.cli.testnet.record import PASSPHRASE, load_record
from atpar.ledger.codec import encode
from atpar.ledger.hashing import SignKind
from atpar.ledger.operations import NewValidator, SetValidators
from atpar.ledger.proofs import (
    FinalityProof,
    compute_trust_root,
    follow_epochs,
    verify_finality,
)
from atpar.ledger.records import CURRENT, VALIDATORS
from atpar.ledger.transactions import VERSION, Body, encode_envelope
from atpar.node.gateway import TxStatus
from atpar.node.service import load_genesis
from atpar.node.signer import open_file_signer
from tests.node.services import Running, load_home, running_nodes
from tests.patience import DEADLINE_S

EPOCH_BLOCKS = 40


def make_change(node: Running, folder: Path, leaving: str) -> bytes:
    """Return the envelope with which all administrators leave one member out."""
    final = node.handle.gateway.reader.get_final()
    current = final.view.get(VALIDATORS, CURRENT)
    assert current is not None
    members = [m for m in current.members if m.participant != leaving]
    op = SetValidators(tuple(NewValidator(*astuple(member)) for member in members), ())
    chain_id, now_ms = final.header.chain_id, final.header.timestamp_ms
    body = Body(
        version=VERSION,
        chain_id=chain_id,
        sender="CHAIN/governance",
        tx_id=bytes(15) + b"\1",
        valid_from_ms=now_ms - 60_000,
        valid_until_ms=now_ms + 600_000,
        ops=(op,),
    )
    data = encode(body)
    wanted = {member.admin_key for member in members}
    signed = []
    for path in sorted(folder.rglob("governance.key")):
        signer = open_file_signer(path, PASSPHRASE)
        if signer.public_key in wanted:
            signature = signer.sign(SignKind.TRANSACTION, chain_id, data)
            signed.append((signer.public_key, signature))
    return encode_envelope(data, sorted(signed))


async def test_member_leaves_on_real_sockets_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(recipe.build_params(), epoch_blocks=EPOCH_BLOCKS, heartbeat_ms=100)
    monkeypatch.setattr(recipe, "build_params", lambda: params)
    prepare(tmp_path, validators=5)
    try:
        configs = [load_home(tmp_path / f"v{index}") for index in range(1, 6)]
        async with running_nodes(configs) as nodes:
            first, last = nodes[0], nodes[-1]
            leaving = configs[-1].node.participant
            envelope = make_change(first, tmp_path, leaving)
            (state,) = await first.handle.gateway.submit([envelope])
            (done,) = await first.handle.gateway.wait_final([state.tx_hash], timeout_s=DEADLINE_S)
            assert done.status is TxStatus.FINAL, done
            assert done.code is not None
            assert done.code.name == "OK"
            with trio.fail_after(2 * DEADLINE_S):
                while leaving in first.handle.network.peers:
                    await trio.sleep(0.05)
                # Two further boundaries: the certificates name signers of their own epochs.
                while first.height < 2 * EPOCH_BLOCKS + 2:
                    await trio.sleep(0.05)
            assert last.height >= EPOCH_BLOCKS
            found = (await first.get("/v1/validators")).json()
            assert leaving not in [each["participant"] for each in found["validators"]]
            block = (await first.get(f"/v1/blocks/{EPOCH_BLOCKS}")).json()
            assert len(block["certificate"]["signers"]) >= 4
            follow(first, load_genesis(configs[0].node.genesis).document)
    finally:
        stop_network(tmp_path, load_record(tmp_path))


def follow(node: Running, document: object) -> None:
    """Follow the sets from genesis by the certificates alone, up to the final block."""
    reader = node.handle.gateway.reader
    path = reader.get_finality_path(reader.get_final().header.height)
    assert path is not None
    trust = compute_trust_root(document)  # type: ignore[arg-type]
    epoch = path.finalization.proposition.epoch
    assert epoch >= 2
    members = follow_epochs(reader.get_epoch_steps(epoch), trust)[-1].validators
    proof = FinalityProof(path.finalization, path.headers)
    verify_finality(proof, chain_id=trust.chain_id, validators=members)
