"""A completion script for bash, made of the parser itself: words are known to the shell, nothing is started for a Tab."""

from __future__ import annotations

import argparse

from diycloud.cli.main import COMMANDS, build_parser


def script() -> str:
    """Return the script. Install: `diycloud completion > /etc/bash_completion.d/diycloud`."""
    cases = []
    for name in COMMANDS:
        parser = _choices(build_parser(name))[name]
        verbs = _choices(parser)
        cases.append(f'    "{name}") words="{" ".join(verbs) or _options(parser)}" ;;')
        cases += [f'    "{name} {verb}") words="{_options(sub)}" ;;' for verb, sub in verbs.items()]
    lines = "\n".join(cases)
    return f"""\
_diycloud() {{
    local words line="${{COMP_WORDS[*]:1:COMP_CWORD-1}}"
    case "$line" in
    "") words="{" ".join(COMMANDS)}" ;;
{lines}
    *) case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{_indented(cases)}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _diycloud diycloud"""


def _indented(cases: list[str]) -> str:
    return "\n".join("    " + case for case in cases)


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser) -> str:
    return " ".join(option for action in parser._actions for option in action.option_strings if option.startswith("--"))
