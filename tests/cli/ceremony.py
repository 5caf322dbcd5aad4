"""A whole genesis ceremony played with real commands, one folder of keys for each institution."""

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from atpar.cli.testnet.recipe import compute_bic, compute_lei
from tests.cli.helpers import FAST, Run, run

ENVIRONMENT = {"ATPAR_PASSPHRASE": "geheim"}
BANKS = ("ALFA", "BRVO", "CHRL", "DLTA")
ISSUER_ACCOUNTS = {
    "treasury": "2:treasury-1,treasury-2",
    "compliance": "1:compliance",
    "compliance-release": "2:release-1,release-2",
    "seizure": "2:seizure-1,seizure-2",
    "pauser": "1:pauser",
    "unpauser": "2:unpauser-1,unpauser-2",
}


def run_as(folder: Path, code: str, *args: str | Path) -> Run:
    """Run a command on the machine of one institution."""
    return run(*args, "--keys", folder / code, environment=ENVIRONMENT)


def make_keys(folder: Path, code: str, *names: str) -> None:
    """Make keys on an institution's machine."""
    for name in names:
        result = run_as(folder, code, "keys", "new", name, *FAST)
        assert result.exit_code == 0, result.err


def join(folder: Path, code: str, role: str, *extra: str) -> Run:
    """Join one institution to the draft."""
    return run_as(
        folder, code, "genesis", "join", folder / "draft.json", "--participant", code,
        "--lei", compute_lei(code), "--bic", compute_bic(code), "--jurisdiction", "HK",
        "--role", role, "--admin", "2:maker,checker", *extra,
    )  # fmt: skip


def start(folder: Path) -> Path:
    """Make the draft."""
    result = run("genesis", "new", "ceremony", "-o", folder / "draft.json")
    assert result.exit_code == 0, result.err
    return folder / "draft.json"


def join_bank(folder: Path, code: str, number: int) -> Run:
    """Join a bank that is a validator."""
    make_keys(folder, code, "maker", "checker", "vote", "governance", "payments")
    return join(
        folder, code, "bank", "--address", f"127.0.0.1:{7200 + number}",
        "--account", "treasury=1:payments", "--account", "minter=2:maker,checker",
    )  # fmt: skip


def add_asset(folder: Path, asset: str) -> Run:
    """Add an asset with two banks as minters."""
    return run(
        "genesis", "asset", folder / "draft.json", asset, "--cap", "1,000,000,000.00",
        "--custodian", "CUST/reserve", "--auditor", "AUDT/audit",
        "--regulator", "REGU/supervision",
        "--minter", "ALFA/minter=100,000,000.00", "--minter", "BRVO/minter=5,000,000.00",
    )  # fmt: skip


def make_folder(name: str) -> Path:
    """Return a folder that lasts as long as the test run."""
    folder = Path(mkdtemp(prefix=f"atpar-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def get_complete_draft() -> Path:
    """Return a folder with a complete, unsigned draft and everybody's keys. Do not change it."""
    folder = make_folder("ceremony")
    start(folder)
    for number, code in enumerate(BANKS):
        result = join_bank(folder, code, number)
        assert result.exit_code == 0, result.err
    make_keys(folder, "JDCL", "maker", "checker")
    accounts = []
    for name, policy in ISSUER_ACCOUNTS.items():
        make_keys(folder, "JDCL", *policy.partition(":")[2].split(","))
        accounts += ["--account", f"{name}={policy}"]
    result = join(folder, "JDCL", "issuer", *accounts)
    assert result.exit_code == 0, result.err
    for code, role, name in (
        ("CUST", "custodian", "reserve"),
        ("AUDT", "auditor", "audit"),
        ("REGU", "regulator", "supervision"),
    ):
        make_keys(folder, code, "maker", "checker", "clerk", "chief")
        extra = ["--account", f"{name}=2:clerk,chief"]
        if role != "custodian":
            extra.append("--observer")
        result = join(folder, code, role, *extra)
        assert result.exit_code == 0, result.err
    for asset in ("HKD.JDCL", "CNH.JDCL"):
        result = add_asset(folder, asset)
        assert result.exit_code == 0, result.err
    return folder


@cache
def get_sealed() -> Path:
    """Return a folder with `genesis.json`, sealed, and everybody's keys. Do not change it."""
    source = get_complete_draft()
    folder = make_folder("sealed")
    copies = []
    for code in BANKS:
        copy = folder / f"{code}.json"
        result = run_as(
            source, code, "genesis", "sign", source / "draft.json", "--participant", code,
            "-o", copy,
        )  # fmt: skip
        assert result.exit_code == 0, result.err
        copies.append(copy)
    result = run("genesis", "seal", *copies, "-o", source / "genesis.json")
    assert result.exit_code == 0, result.err
    return source
