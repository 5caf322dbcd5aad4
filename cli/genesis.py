"""`atpar genesis`: the ceremony in which institutions found a chain.

A draft travels between them as one JSON file. Each joins on its own machine with public keys, a
root certificate and proofs of possession; then each validator's administrator signs the finished
document, and sealing brings the signatures together and checks everything. No private key is ever
in the file. Any change of the draft drops the signatures made before it.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from msgspec.structs import replace

from atpar.cli.amounts import format_amount, parse_amount
from atpar.cli.context import State, home_option, keys_options, output_options, pass_state
from atpar.cli.drafts import (
    build,
    check_complete,
    check_roots,
    find_difference,
    naming_file,
    read_draft,
)
from atpar.cli.errors import ConfigurationProblem, Interrupted, WrongUsage
from atpar.cli.files import read_input, write_new, write_over
from atpar.cli.keyring import KeyRing
from atpar.cli.output import fields, table
from atpar.cli.policies import POLICY_HELP, Prover
from atpar.ledger.genesis import (
    FORMAT,
    GenesisAccount,
    GenesisAsset,
    GenesisDocument,
    GenesisObserver,
    GenesisParams,
    GenesisParticipant,
    GenesisQuota,
    GenesisSignature,
    GenesisValidator,
    check_genesis,
    compute_chain_id,
    render_genesis,
)
from atpar.ledger.hashing import SignKind
from atpar.ledger.jsonform import to_json
from atpar.ledger.limits import (
    DAY_MS,
    HOUR_MS,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    MAX_SCALE,
    MAX_WINDOW_MS,
    TX_ID_RETENTION_MS,
)
from atpar.ledger.operations import AssetTerms
from atpar.ledger.types import ZERO_HASH, Role

DEFAULT_PARAMS: Final = GenesisParams(
    max_window_ms=MAX_WINDOW_MS,
    tx_id_retention_ms=TX_ID_RETENTION_MS,
    max_block_bytes=MAX_BLOCK_BYTES,
    max_block_transactions=MAX_BLOCK_TRANSACTIONS,
    epoch_blocks=1_000_000,
    block_interval_ms=50,
    heartbeat_ms=5_000,
    delta_ms=200,
)

DRAFT = click.argument("draft", type=click.Path(path_type=Path, dir_okay=False))
OUT = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here instead of changing the draft in place.",
)


@click.group(name="genesis")
def genesis_command() -> None:
    """The ceremony that founds a chain.

    One party runs `new`, each institution `join` on its own machine, the issuer's side `asset`;
    then every validator runs `sign` on the finished draft, and `seal` brings the signatures
    together. `check` says what is wrong at any time, `hash` prints the chain id.
    """


@genesis_command.command()
@click.argument("name")
@OUT
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A chain parameter, such as delta_ms=200; repeat for more.",
)
@output_options
@pass_state
def new(state: State, *, name: str, out: Path | None, params: tuple[str, ...]) -> None:
    """Start a draft.

    Example: atpar genesis new hk-main -o draft.json --param delta_ms=300
    """
    value = to_json(
        GenesisDocument(
            format=FORMAT,
            name=name,
            timestamp_ms=time.time_ns() // 1_000_000,
            validators=(),
            observers=(),
            participants=(),
            accounts=(),
            assets=(),
            quotas=(),
            params=DEFAULT_PARAMS,
            signatures=(),
        )
    )
    for item in params:
        key, _, number = item.partition("=")
        if key not in value["params"] or not re.fullmatch("[0-9]{1,18}", number, re.ASCII):
            known = ", ".join(value["params"])
            raise WrongUsage(
                f"--param {item!r} is not KEY=NUMBER with a known key", advice=f"keys: {known}"
            )
        value["params"][key] = int(number)
    path = out or Path("genesis-draft.json")
    write_new(path, render_genesis(build(GenesisDocument, value, "")))
    state.output.show({"draft": str(path), "name": name}, f"{path}: a draft for chain {name}")


@genesis_command.command()
@DRAFT
@click.option("--participant", required=True, metavar="CODE", help="4 to 8 of A-Z 0-9, for ever.")
@click.option("--lei", required=True, help="Legal entity identifier.")
@click.option("--bic", required=True, help="8 or 11 characters.")
@click.option("--jurisdiction", required=True, help="Two letters, ISO 3166.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice([role.value for role in Role]),
    help="Repeat for more.",
)
@click.option(
    "--admin", "admin_policy", required=True, metavar="POLICY", help=f"{POLICY_HELP}; two keys."
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME=POLICY",
    help="An account besides admin, such as treasury=1:payments; repeat for more.",
)
@click.option("--address", help="host:port for other validators. Makes it a validator.")
@click.option("--vote-key", default="vote", show_default=True, help="A validator's vote key.")
@click.option(
    "--governance-key", default="governance", show_default=True, help="Its administrator's key."
)
@click.option("--observer", is_flag=True, help="Follow the chain without a vote.")
@click.option(
    "--root-certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Registered TLS root; made with its key in the folder of keys if it is not there yet.",
)
@click.option(
    "--proof",
    "proofs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Proof of possession of a key on another machine; name the key by its hex.",
)
@click.option("--replace", "again", is_flag=True, help="Replace an earlier entry of the same code.")
@OUT
@output_options
@home_option
@keys_options
@pass_state
def join(
    state: State,
    *,
    draft: Path,
    out: Path | None,
    participant: str,
    lei: str,
    bic: str,
    jurisdiction: str,
    roles: tuple[str, ...],
    admin_policy: str,
    accounts: tuple[str, ...],
    address: str | None,
    vote_key: str,
    governance_key: str,
    observer: bool,
    root_certificate: Path | None,
    proofs: tuple[Path, ...],
    again: bool,
) -> None:
    """Add one institution to a draft: keys, accounts, and what a validator or observer needs.

    Example: atpar genesis join draft.json --participant ALFA --lei … --bic ALFAHKH0
    --jurisdiction HK --role bank --admin 2:maker,checker --account treasury=1:payments
    --address 10.0.0.1:7201
    """
    document = read_draft(draft)
    if any(entry.participant == participant for entry in document.participants):
        if not again:
            raise WrongUsage(
                f"{participant} has joined already", advice="use --replace to change its entry"
            )
        document = _remove(document, participant)
    ring = KeyRing(state)
    prover = Prover(ring, participant=participant, chain_id=ZERO_HASH)
    prover.add_proofs(proofs)
    policy, admin_names = prover.parse_policy(admin_policy)
    entry = {
        "participant": participant,
        "lei": lei,
        "bic": bic,
        "jurisdiction": jurisdiction,
        "roles": sorted(roles),
        "travel_key": None,
        "admin_policy": to_json(policy),
        "possessions": [to_json(proof) for proof in prover.prove_all(admin_names)],
    }
    added = replace(
        document,
        participants=(*document.participants, build(GenesisParticipant, entry, "participant")),
        accounts=document.accounts + _build_accounts(prover, participant, accounts, admin_names),
    )
    if address is not None or observer:
        pem = _read_root(state, ring, participant, root_certificate)
        if address is None:
            seat = GenesisObserver(participant, pem)
            added = replace(added, observers=(*added.observers, seat))
        else:
            validator = _build_validator(
                prover,
                participant,
                vote_key=vote_key,
                governance_key=governance_key,
                root=pem,
                address=address,
            )
            added = replace(added, validators=(*added.validators, validator))
    path = _save(state, draft, out, added)
    kind = "validator" if address is not None else "observer" if observer else "participant"
    state.output.show(
        {"draft": str(path), "participant": participant, "kind": kind},
        f"{participant} joined {path} as {kind}",
    )


def _build_validator(
    prover: Prover, participant: str, *, vote_key: str, governance_key: str, root: str, address: str
) -> GenesisValidator:
    values = {
        "participant": participant,
        "vote_key": prover.find_key(vote_key).hex(),
        "vote_possession": prover.prove(vote_key).hex(),
        "admin_key": prover.find_key(governance_key).hex(),
        "admin_possession": prover.prove(governance_key).hex(),
        "root_certificate": root,
        "address": address,
    }
    return build(GenesisValidator, values, "validator")


def _build_accounts(
    prover: Prover, participant: str, specs: Sequence[str], proven: Sequence[str]
) -> tuple[GenesisAccount, ...]:
    """Return the accounts; a key's proof stands where the document names it first."""
    seen = {prover.find_key(name) for name in proven}
    built = []
    for spec in specs:
        name, equals, text = spec.partition("=")
        if not equals:
            raise WrongUsage(
                f"--account {spec!r} is not NAME=POLICY", advice="such as treasury=1:payments"
            )
        policy, names = prover.parse_policy(text)
        fresh = [each for each in names if prover.find_key(each) not in seen]
        seen.update(prover.find_key(each) for each in fresh)
        value = {
            "account": f"{participant}/{name}",
            "policy": to_json(policy),
            "reference_required": False,
            "possessions": [to_json(proof) for proof in prover.prove_all(fresh)],
        }
        built.append(build(GenesisAccount, value, f"account {name}"))
    return tuple(built)


def _read_root(state: State, ring: KeyRing, participant: str, path: Path | None) -> str:
    from atpar.node.errors import IdentityInvalid
    from atpar.node.identity import (
        ROOT_CERTIFICATE,
        ROOT_KEY,
        create_root,
        parse_root,
        write_credential,
    )

    if path is None:
        path = ring.folder / ROOT_CERTIFICATE
        if not path.exists():
            write_credential(path, ring.folder / ROOT_KEY, create_root(participant))
            state.output.warn(
                f"made {path} and {ring.folder / ROOT_KEY}: move the key offline once your node"
                " has its leaf certificate"
            )
    data = read_input(path, max_bytes=8_192)
    try:
        parse_root(data)
    except IdentityInvalid as error:
        raise ConfigurationProblem(
            f"{path}: {error}", advice="use a self-signed Ed25519 root, or let `join` make one"
        ) from error
    return data.decode("ascii")


def _remove(document: GenesisDocument, participant: str) -> GenesisDocument:
    prefix = f"{participant}/"
    return replace(
        document,
        participants=tuple(e for e in document.participants if e.participant != participant),
        validators=tuple(e for e in document.validators if e.participant != participant),
        observers=tuple(e for e in document.observers if e.participant != participant),
        accounts=tuple(e for e in document.accounts if not e.account.startswith(prefix)),
    )


@genesis_command.command()
@DRAFT
@click.argument("asset")
@click.option("--scale", type=click.IntRange(0, MAX_SCALE), default=2, show_default=True)
@click.option("--cap", required=True, metavar="AMOUNT", help="Most that may circulate.")
@click.option("--custodian", required=True, metavar="ACCOUNT")
@click.option("--auditor", required=True, metavar="ACCOUNT")
@click.option("--regulator", required=True, metavar="ACCOUNT")
@click.option(
    "--minter",
    "minters",
    multiple=True,
    required=True,
    metavar="ACCOUNT=QUOTA",
    help="A minter, with the amount it may mint at once and a day; repeat for more.",
)
@click.option("--treasury", metavar="ACCOUNT", help="Default: ISSUER/treasury; so the next five.")
@click.option("--compliance", metavar="ACCOUNT")
@click.option("--compliance-release", metavar="ACCOUNT")
@click.option("--seizure", metavar="ACCOUNT")
@click.option("--pauser", metavar="ACCOUNT")
@click.option("--unpauser", metavar="ACCOUNT")
@click.option("--attestation-max-age-hours", type=click.IntRange(1), default=24, show_default=True)
@click.option("--audit-max-age-days", type=click.IntRange(1), default=35, show_default=True)
@click.option("--redemption-sla-days", type=click.IntRange(0, 30), default=1, show_default=True)
@click.option("--utc-offset-minutes", type=int, default=480, show_default=True)
@click.option("--overcollateral-bps", type=int, default=0, show_default=True)
@OUT
@output_options
@pass_state
def asset(
    state: State,
    /,
    *,
    draft: Path,
    out: Path | None,
    asset: str,
    scale: int,
    cap: str,
    minters: tuple[str, ...],
    attestation_max_age_hours: int,
    audit_max_age_days: int,
    **rest: Any,
) -> None:
    """Add an asset at zero supply, with its role accounts and mint quotas.

    Example: atpar genesis asset draft.json HKD.JDCL --cap 1,000,000,000.00
    --custodian CUST/reserve --auditor AUDT/audit --regulator REGU/supervision
    --minter ALFA/minter=100,000,000.00
    """
    document = read_draft(draft)
    if any(entry.asset == asset for entry in document.assets):
        raise WrongUsage(f"{asset} is in the draft already", advice="edit the draft's JSON")
    currency, _, issuer = asset.partition(".")
    quotas = [_parse_minter(item, asset=asset, scale=scale) for item in minters]
    roles = ("treasury", "compliance", "compliance_release", "seizure", "pauser", "unpauser")
    for role in roles:
        rest[role] = rest[role] or f"{issuer}/{role.replace('_', '-')}"
    terms = {
        "cap": str(parse_amount(cap, asset=asset, scale=scale, allow_zero=True)),
        "attestation_max_age_ms": attestation_max_age_hours * HOUR_MS,
        "audit_max_age_ms": audit_max_age_days * DAY_MS,
        "holidays": [],
        "min_kyc_tier": 0,
        "travel_rule_from": None,
        "minters": sorted(minter for minter, _ in quotas),
        **rest,
    }
    entry = GenesisAsset(asset, issuer, currency, scale, build(AssetTerms, terms, asset))
    entry = build(GenesisAsset, to_json(entry), asset)
    added = tuple(
        build(
            GenesisQuota,
            {"asset": asset, "minter": m, "capacity": str(n), "refill_per_day": str(n)},
            m,
        )
        for m, n in sorted(quotas)
    )
    changed = replace(document, assets=(*document.assets, entry), quotas=(*document.quotas, *added))
    path = _save(state, draft, out, changed)
    state.output.show(
        {"draft": str(path), "asset": asset, "scale": scale, "cap": str(entry.terms.cap)},
        f"{asset} added to {path}: scale {scale},"
        f" cap {format_amount(entry.terms.cap, scale=scale)}",
    )


def _parse_minter(item: str, *, asset: str, scale: int) -> tuple[str, int]:
    minter, equals, quota = item.partition("=")
    if not equals:
        raise WrongUsage(
            f"--minter {item!r} is not ACCOUNT=QUOTA", advice="such as ALFA/minter=1,000,000.00"
        )
    return minter, parse_amount(quota, asset=asset, scale=scale, allow_zero=True)


@genesis_command.command()
@DRAFT
@click.option("--participant", required=True, metavar="CODE", help="The validator who signs.")
@click.option("--governance-key", default="governance", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@OUT
@output_options
@home_option
@keys_options
@pass_state
def sign(
    state: State,
    *,
    draft: Path,
    out: Path | None,
    participant: str,
    governance_key: str,
    yes: bool,
) -> None:
    """Sign the finished document as one validator's administrator.

    Compare the chain id with the other parties over another channel before you sign.

    Example: atpar genesis sign draft.json --participant ALFA
    """
    document = read_draft(draft)
    check_genesis(document, sealed=False)
    wanted = {entry.participant: entry.admin_key for entry in document.validators}
    if participant not in wanted:
        raise WrongUsage(
            f"{participant} is no validator of this document",
            advice=f"validators: {', '.join(wanted)}",
        )
    ring = KeyRing(state)
    key = ring.find(governance_key)
    if key.public_key != wanted[participant]:
        raise WrongUsage(
            f"key {governance_key} is {key.public_key.hex()}, the document names"
            f" {wanted[participant].hex()} for {participant}",
            advice="use --governance-key NAME",
        )
    for line in _summarise(document):
        state.output.note(line)
    if not yes and state.output.is_interactive():
        _confirm("Sign this document?")
    chain_id = compute_chain_id(document)
    signature = ring.open(key).sign(SignKind.GENESIS, chain_id, b"")
    others = tuple(s for s in document.signatures if s.participant != participant)
    signed = replace(
        document, signatures=_order(document, (*others, GenesisSignature(participant, signature)))
    )
    path = out or draft
    write_over(path, render_genesis(signed))
    missing = _list_missing(signed)
    state.output.show(
        {
            "document": str(path),
            "chain_id": chain_id.hex(),
            "participant": participant,
            "signatures": len(signed.signatures),
            "missing": missing,
        },
        f"{participant} signed {path}; missing: {', '.join(missing) or 'nobody'}",
    )


@genesis_command.command()
@click.argument(
    "documents", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("genesis.json"),
    show_default=True,
)  # fmt: skip
@output_options
@pass_state
def seal(state: State, *, documents: tuple[Path, ...], out: Path) -> None:
    """Bring the signatures of several copies together, check everything, write the document.

    Example: atpar genesis seal alfa.json brvo.json chrl.json dlta.json -o genesis.json
    """
    parsed = [(path, read_draft(path)) for path in documents]
    first_path, first = parsed[0]
    for path, document in parsed[1:]:
        if compute_chain_id(document) != compute_chain_id(first):
            field = find_difference(first, document)
            raise ConfigurationProblem(
                f"{first_path} and {path} differ in {field}",
                advice="all parties must sign the same document; agree on one and sign again",
            )
    signatures = {s.participant: s for _, document in parsed for s in document.signatures}
    sealed = replace(first, signatures=_order(first, tuple(signatures.values())))
    check_complete(sealed)
    write_over(out, render_genesis(sealed))
    chain_id = compute_chain_id(sealed).hex()
    state.output.show(
        {
            "genesis": str(out),
            "chain_id": chain_id,
            "name": sealed.name,
            "signatures": len(sealed.signatures),
            "validators": len(sealed.validators),
        },
        f"genesis sealed by {len(sealed.signatures)} of {len(sealed.validators)}"
        f"     chain {sealed.name}     id {chain_id}",
    )


@genesis_command.command()
@click.argument("document", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--draft", is_flag=True, help="Signatures may still be missing.")
@output_options
@pass_state
def check(state: State, *, document: Path, draft: bool) -> None:
    """Check a document for every inconsistency; the message names the field.

    Example: atpar genesis check genesis.json
    """
    parsed = read_draft(document)
    with naming_file(document):
        check_genesis(parsed, sealed=False)
        check_roots(parsed)
    missing = _list_missing(parsed)
    if not draft and missing:
        raise ConfigurationProblem(
            f"{document}: signatures: missing: {', '.join(missing)}",
            advice=f"if it is not sealed yet: atpar genesis check {document} --draft",
        )
    if not draft:
        with naming_file(document):
            check_complete(parsed)
    state.output.show(
        {
            "document": str(document),
            "valid": True,
            "sealed": not _list_missing(parsed),
            "chain_id": compute_chain_id(parsed).hex(),
            "name": parsed.name,
            "validators": [entry.participant for entry in parsed.validators],
            "assets": [entry.asset for entry in parsed.assets],
            "missing": _list_missing(parsed),
        },
        [*_summarise(parsed), "valid"],
    )


@genesis_command.command(name="hash")
@click.argument("document", type=click.Path(path_type=Path, dir_okay=False))
@output_options
@pass_state
def hash_(state: State, *, document: Path) -> None:
    """Print the chain id: the hash of the document without its signatures.

    Example: atpar genesis hash genesis.json
    """
    chain_id = compute_chain_id(read_draft(document)).hex()
    state.output.show({"document": str(document), "chain_id": chain_id}, chain_id)


# ---- writing and showing


def _save(state: State, draft: Path, out: Path | None, document: GenesisDocument) -> Path:
    if document.signatures:
        state.output.warn("the draft changed: its signatures are dropped and must be made again")
        document = replace(document, signatures=())
    path = out or draft
    write_over(path, render_genesis(document))
    return path


def _order(
    document: GenesisDocument, signatures: tuple[GenesisSignature, ...]
) -> tuple[GenesisSignature, ...]:
    """Return signatures in the order of the validators."""
    order = {entry.participant: index for index, entry in enumerate(document.validators)}
    return tuple(sorted(signatures, key=lambda s: (order.get(s.participant, 999), s.participant)))


def _list_missing(document: GenesisDocument) -> list[str]:
    signed = {signature.participant for signature in document.signatures}
    return [e.participant for e in document.validators if e.participant not in signed]


def _summarise(document: GenesisDocument) -> list[str]:
    lines = fields(
        [
            ("chain", document.name),
            ("chain id", compute_chain_id(document).hex()),
            ("participants", len(document.participants)),
            ("accounts", len(document.accounts)),
            ("assets", ", ".join(entry.asset for entry in document.assets) or None),
            ("signed by", f"{len(document.signatures)} of {len(document.validators)} validators"),
        ]
    )
    rows = [(e.participant, e.address, e.admin_key.hex()) for e in document.validators]
    return [*lines, *table(("validator", "address", "administrator's key"), rows)]


def _confirm(question: str) -> None:
    if not click.confirm(question, err=True):
        raise Interrupted("not confirmed: nothing was signed", advice="run it again when ready")
