"""`atpar completion`: the script that completes commands, options and files in a shell."""

from typing import Any, Final

import click
from click.shell_completion import get_completion_class

from atpar.cli.context import State, output_options, pass_state

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_ATPAR_COMPLETE"


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS))
@output_options
@pass_state
def completion_command(state: State, *, shell: str) -> None:
    """Print the completion script of a shell.

    bash: eval "$(atpar completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc;
    fish: atpar completion fish > ~/.config/fish/completions/atpar.fish

    Example: eval "$(atpar completion bash)"
    """
    script = make_script(shell)
    state.output.show({"shell": shell, "script": script}, script)


def make_script(shell: str) -> str:
    """Return the script, without asking the shell for its version as click would for bash."""
    from atpar.cli.main import cli

    kind: Any = get_completion_class(shell)
    completion = kind(cli, {}, "atpar", VARIABLE)
    text: str = completion.source_template % completion.source_vars()
    return text
