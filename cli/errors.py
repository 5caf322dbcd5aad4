"""What can go wrong for a person at the command line: one class for each exit code.

    CliError                    exit code
    ├── InternalProblem             1   a mistake of ours
    ├── WrongUsage                  2   the command line or an input file says something impossible
    ├── ConfigurationProblem        3   node.toml, the genesis document, a folder
    ├── KeystoreProblem             4   a key is missing or does not open
    ├── NodeUnreachable             5   no node answered; nothing was sent
    ├── RefusedByLedger             6   definitive: it did not happen and will not
    ├── OutcomeUnknown              7   it may have happened: look it up, or send the same again
    ├── SafetyStop                  8   signing guard, diverging state: needs a person
    ├── NotReady                    9   the node is there and cannot serve yet
    └── Interrupted               130   by the person

Exit code 0 means done and, where a transaction was sent, final. Lower layers raise errors of their
own, `explain` turns every one of them into one of these.
"""

from typing import Any, ClassVar

import click

EXIT_DONE = 0


class CliError(Exception):
    """Root of what a command reports. `advice` says what to do next."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"
    """Stable name in JSON."""

    def __init__(self, message: str, *, advice: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.details = details
        """Further members of the JSON object, such as `tx_hash`."""


class InternalProblem(CliError):
    """A mistake of ours."""

    exit_code = 1
    kind = "internal_error"


class WrongUsage(CliError):
    """The command line, or a file given to it, says something impossible."""

    exit_code = 2
    kind = "wrong_usage"


class ConfigurationProblem(CliError):
    """Configuration or genesis document cannot be used."""

    exit_code = 3
    kind = "configuration"


class KeystoreProblem(CliError):
    """A key is missing, damaged, exposed, or its passphrase is wrong."""

    exit_code = 4
    kind = "keystore"


class NodeUnreachable(CliError):
    """No node answered."""

    exit_code = 5
    kind = "unreachable"


class RefusedByLedger(CliError):
    """The ledger refused, definitively. `code` is its stable name."""

    exit_code = 6
    kind = "refused"

    def __init__(self, message: str, *, advice: str, code: str, **details: Any) -> None:
        super().__init__(message, advice=advice, code=code, **details)
        self.code = code


class OutcomeUnknown(CliError):
    """The transaction may or may not have happened."""

    exit_code = 7
    kind = "outcome_unknown"


class SafetyStop(CliError):
    """Going on could make two histories."""

    exit_code = 8
    kind = "safety_stop"


class NotReady(CliError):
    """The node is there and cannot serve yet."""

    exit_code = 9
    kind = "not_ready"


class Interrupted(CliError):
    """The person stopped it."""

    exit_code = 130
    kind = "interrupted"


BY_EXIT_CODE: dict[int, type[CliError]] = {
    kind.exit_code: kind
    for kind in (
        InternalProblem,
        WrongUsage,
        ConfigurationProblem,
        KeystoreProblem,
        NodeUnreachable,
        OutcomeUnknown,
        SafetyStop,
        NotReady,
        Interrupted,
    )
}

_ADVICE = {
    "ConfigInvalid": "`atpar node check` shows every value and where it comes from",
    "GenesisInvalid": "correct that field; `atpar genesis check FILE` looks at the whole document",
    "KeyMissing": "`atpar keys list --keys DIR` shows the keys of a folder",
    "KeyExists": "choose another name, or move the existing file away yourself",
    "KeyExposed": "run the chmod above; if others had access, replace the key",
    "KeyDamaged": "restore the file from your backup: the key inside cannot be used",
    "WrongPassphrase": "try again; --passphrase-file or ATPAR_PASSPHRASE take it without a prompt",
    "PassphraseMissing": "use --passphrase-file FILE (its first line), or set ATPAR_PASSPHRASE",
    "SignerUnavailable": "name a keystore file instead",
    "StoreLocked": "another `atpar node run` uses this folder: stop it, or use its API",
    "StoreSchema": "install the version named above, or re-sync into a new data folder",
    "StoreMismatch": "check node.data and node.genesis: they belong to two chains",
    "StoreMissing": "run `atpar node init` first",
    "StoreCorrupt": "keep a copy of the folder, then re-sync into a new data folder",
    "JournalMissing": (
        "on a first start run `atpar node init`; otherwise the disk lost the record of its votes"
        " and this validator must not vote before the next epoch"
    ),
    "JournalMismatch": "check node.participant, node.data and node.genesis against each other",
    "JournalLost": "this validator must not vote before the next epoch; keep the file for analysis",
    "Halted": "keep data and logs, and call the other validators before you restart anything",
    "DiskFault": "check free space and the disk's health, then start the node again",
    "NonCanonical": "the file or message was damaged or altered: ask for it again",
    "JsonInvalid": "correct the named field",
    "IdentityInvalid": "check the TLS files, and the root in the genesis document",
    "ForkFound": (
        "keep both files and rely on neither: show them to the auditor, the regulator and every"
        " institution that signed"
    ),
    "ProofInvalid": "do not rely on it: ask for the proof again, from another node if possible",
}

_LEDGER_KINDS = {
    "ForkFound": SafetyStop,
    "GenesisInvalid": ConfigurationProblem,
    "JsonInvalid": WrongUsage,
}
_LEDGER_CODES = {"NonCanonical": "NON_CANONICAL", "ProofInvalid": "PROOF_INVALID"}


def explain(error: BaseException) -> CliError:
    """Return the command line's form of any error: its exit code and what to do next."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, click.UsageError):
        return _explain_usage(error)
    if isinstance(error, click.ClickException):
        return WrongUsage(error.format_message(), advice="see --help")
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Interrupted("interrupted", advice="nothing more was sent after this point")
    name = _name_known(error)
    advice = _ADVICE.get(name, "see --help")
    if name in _LEDGER_CODES:
        code = _LEDGER_CODES[name]
        return RefusedByLedger(f"{code}: {error}", advice=advice, code=code)
    if name == "Refused":
        return refused(error.code.name, str(error))  # type: ignore[attr-defined]  # by its name
    if name in _LEDGER_KINDS:
        return _LEDGER_KINDS[name](str(error), advice=advice)
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int) and exit_code in BY_EXIT_CODE and exit_code != 1:
        return BY_EXIT_CODE[exit_code](str(error), advice=advice)
    if name == "DiskFault":
        return InternalProblem(str(error), advice=advice)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    first_line = text.splitlines()[0]
    return InternalProblem(
        f"internal error: {first_line}", advice="run again with --debug and report what it prints"
    )


def refused(code: str, message: str, **details: Any) -> RefusedByLedger:
    """Return the refusal for a ledger code, with its ISO reason, meaning and advice."""
    from atpar.ledger import codes

    try:
        meaning = codes.MEANINGS[codes.Code[code]]
    except (KeyError, AttributeError):
        return RefusedByLedger(f"{code}: {message}", advice="see docs/ledger.md", code=code)
    said = meaning.meaning if not message or message == meaning.meaning else message
    text = f"{code} ({meaning.iso}): {said}"
    if said is not meaning.meaning:
        details.setdefault("meaning", meaning.meaning)
    return RefusedByLedger(
        text, advice=meaning.advice, code=code, iso_reason=meaning.iso, **details
    )


def _name_known(error: BaseException) -> str:
    """Return the nearest name in the error's ancestry that has advice of its own."""
    for kind in type(error).__mro__:
        if kind.__name__ in _ADVICE or kind.__name__ == "Refused":
            return kind.__name__
    return ""


def _explain_usage(error: click.UsageError) -> WrongUsage:
    path = error.ctx.command_path if error.ctx else "atpar"
    return WrongUsage(error.format_message(), advice=f"see `{path} --help`")
