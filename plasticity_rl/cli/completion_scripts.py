"""The static scripts that complete our commands in bash, zsh and fish. Light.

shtab's scripts complete ``--name value``, not ``--name=value`` as we write options; argcomplete asks the program at
every key, which would have to import Lightning.
"""

from __future__ import annotations

import shlex

from plasticity_rl.cli.completion import FILES, arguments_of_callbacks, options, values, words

FLAGS = ("--help", "--print_config", "--trust")
"""Options that need no value."""
OTHER_NAMES = {"--config": ("-c",), "--trainer.callbacks+": ("--trainer.callbacks", "--trainer.callbacks.help")}
"""Options that take the same as another one."""

BASH = r"""# Completion of plasticity-rl for bash, made by: plasticity-rl completion bash
_plasticity_rl() {{
    local line=${{COMP_LINE:0:$COMP_POINT}} cur name value words="" files=0 prefix="" last
    cur=${{line##* }}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{commands}" -- "$cur"))
        return
    fi
    name=${{line% *}}
    name=${{name##* }}
    value=$cur
    if [[ $cur == -*=* ]]; then
        name=${{cur%%=*}}
        value=${{cur#*=}}
        [[ ${{COMP_WORDBREAKS-}} == *=* ]] || prefix=$name=
    elif [[ $cur == -* ]]; then
        case ${{COMP_WORDS[1]}} in
{options}
        esac
        last=${{line##*=callbacks.}}
        last=${{last%% *}}
        [[ $line == *=callbacks.* ]] && case callbacks.$last in
{arguments}
        esac
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        compopt -o nospace 2>/dev/null
        return
    fi
    case $name in
{values}
        *) [[ $cur == -* ]] || case ${{COMP_WORDS[1]}} in
{words}
            esac ;;
    esac
    [[ $words == *{FILES}* ]] && files=1
    words=${{words//{FILES}/}}
    COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$value"))
    if ((files)); then
        COMPREPLY+=($(compgen -P "$prefix" -f -- "$value"))
    fi
}}
complete -F _plasticity_rl plasticity-rl
"""
ZSH = r"""# Completion of plasticity-rl for zsh, made by: plasticity-rl completion zsh
(($+functions[compdef])) || {{ autoload -Uz compinit && compinit }}
_plasticity_rl() {{
    local cur=$words[CURRENT] name=$words[CURRENT-1] found="" added=1
    local -a last
    if ((CURRENT == 2)); then
        compadd -- {commands}
        return
    fi
    if [[ $cur == -*=* ]]; then
        name=${{cur%%=*}}
        compset -P 1 '*='
    elif [[ $cur == -* ]]; then
        case $words[2] in
{options}
        esac
        last=(${{(M)words:#*=callbacks.*}})
        case ${{last[-1]#*=}} in
{arguments}
        esac
        compadd -S '' -- ${{=found}}
        return
    fi
    case $name in
{values}
        *) [[ $cur == -* ]] || case $words[2] in
{words}
            esac ;;
    esac
    compadd -- ${{=found//{FILES}/}} && added=0
    [[ $found == *{FILES}* ]] && _files && added=0
    return added
}}
compdef _plasticity_rl plasticity-rl
"""
"""Of its own, since bashcompinit has no ``compopt``: there would be a blank behind every ``--name=``, and no files."""


def script(shell: str, commands: dict[str, str]) -> str:
    """Return the script of a shell.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        commands: Commands with what each does.
    """
    if shell == "fish":
        return _fish(commands)
    variable = "found" if shell == "zsh" else "words"
    cases = lambda given, indent, plus="": _cases(given, indent, variable, plus)  # noqa: E731
    return (ZSH if shell == "zsh" else BASH).format(
        commands=" ".join(commands),
        options=cases({name: [f"{one}=" for one in options(name)] for name in commands}, 12),
        arguments=cases(
            {path: [f"{one}=" for one in given] for path, given in arguments_of_callbacks().items()}, 12, "+"
        ),
        values=cases(_with_other_names(values()), 8),
        words=cases({name: found for name in commands if (found := words(name))}, 16),
        FILES=FILES,
    )


def _with_other_names(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"|".join((name, *OTHER_NAMES.get(name, ()))): given for name, given in found.items()}


def _cases(found: dict[str, list[str]], indent: int, variable: str, plus: str) -> str:
    return "\n".join(
        f'{" " * indent}{name}) {variable}{plus}="{plus and " "}{" ".join(given)}" ;;' for name, given in found.items()
    )


FISH = r"""# Completion of plasticity-rl for fish, made by: plasticity-rl completion fish
function __plasticity_rl_callback
    set -l given (string replace -rf -- '^(?:--trainer\.callbacks\+?=)?(callbacks\.\w+)$' '$1' (commandline -opc))
    test "$given[-1]" = "$argv[1]"
end
"""


def _fish(commands: dict[str, str]) -> str:
    start = "complete -c plasticity-rl"
    lines = [f"{start} -n __fish_use_subcommand -f -a {name} -d {shlex.quote(text)}" for name, text in commands.items()]
    known = values()
    known |= {other: known[name] for name, others in OTHER_NAMES.items() for other in others}
    for command in commands:
        begin = f"{start} -n '__fish_seen_subcommand_from {command}'"
        own = words(command)
        lines.append(f"{begin}{'' if FILES in own else ' -f'} -a '{_plain(own)}'")
        lines += [_fish_option(begin, option, known.get(option, [])) for option in options(command)]
    for path, given in arguments_of_callbacks().items():
        begin = f"{start} -n '__plasticity_rl_callback {path}'"
        lines += [_fish_option(begin, option, []) for option in given]
    return FISH + "\n".join(lines) + "\n"


def _fish_option(begin: str, option: str, given: list[str]) -> str:
    short = " -s c" if option == "--config" else ""
    kind = "" if option in FLAGS else " -r"
    files = " -F" if FILES in given else " -f"
    return (
        f"{begin}{short} -l {shlex.quote(option[2:])}{kind}{files}{f' -a {shlex.quote(_plain(given))}' * bool(given)}"
    )


def _plain(given: list[str]) -> str:
    return " ".join(one for one in given if one != FILES)
