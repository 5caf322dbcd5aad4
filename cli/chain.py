"""The chain that a command is about, as its genesis document describes it."""

import re
from dataclasses import dataclass, field

from atpar.cli.context import State
from atpar.cli.drafts import naming_file
from atpar.cli.errors import ConfigurationProblem
from atpar.ledger.genesis import GenesisDocument, compute_chain_id, parse_genesis


@dataclass(slots=True)
class Chain:
    """Chain id, name and the scales of its assets. All of it is covered by the chain id, except
    scales that a node told, which `told` names.
    """

    document: GenesisDocument
    chain_id: bytes
    scales: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Assets younger than the genesis document, whose scale is a node's word."""

    @property
    def name(self) -> str:
        """The chain's name."""
        return self.document.name


def load_chain(state: State) -> Chain:
    """Return the chain of the genesis document that the options name.

    Raises:
        ConfigurationProblem: there is no such file.
        GenesisInvalid: the document is inconsistent; names the field.
    """
    path = state.get_genesis_path()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationProblem(
            f"genesis document {path}: {error.strerror}",
            advice="use --genesis FILE, or --home DIR of a folder that has one",
        ) from error
    with naming_file(path):
        document = parse_genesis(data)
    scales = {asset.asset: asset.scale for asset in document.assets}
    return Chain(document, compute_chain_id(document), scales)


def is_hash(text: str) -> bool:
    """Return whether text is 32 bytes in hex."""
    return re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII) is not None
