"""`cloner completion`: what bash, zsh and fish make of it, with names that a real server has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import environment
from support.scripted import Scripted, answer
from support.server import Server

# bash and fish print the completions of their argument's last word.
BASH = """
eval "$(cloner completion bash)"
IFS=' ' read -r -a COMP_WORDS <<< "$1"
[[ "$1" != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_shtab_cloner
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = """
cloner completion fish | source
complete -C $argv[1] | string split -f1 \\t
"""
# zsh completes in its line editor alone, which runs here on a terminal of its own, until it shows the second argument.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -Uz compinit; compinit -u -D; eval "$(cloner completion zsh)"; print RE''ADY'
zpty -r shell said '*READY*'
zpty -w -n shell "$1"$'\\t\\t'
zpty -r shell said "*$2*" && print shown
zpty -d shell
"""
CASES = [
    ("cloner canc", {"cancel"}),
    ("cloner clone web --meth", {"--method"}),
    ("cloner clone web --method li", {"linked", "libvirt"}),
    ("cloner clone wi", {"win-uefi"}),
    ("cloner clone web --pool ", {"data", "default"}),
    ("cloner ls volumes ", {"data", "default"}),
    ("cloner ls v", {"volumes"}),
    ("cloner token ", {"create", "list", "revoke"}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: the one that the session shares has more names with every clone."""
    with Server(None, tmp_path_factory.mktemp("completion")) as own:
        yield own


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which `cloner` is this one."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "cloner"
    command.write_text(f'#!/bin/sh\ncd /\nexec {sys.executable} -m cloner "$@"\n')
    command.chmod(0o755)
    return f"{folder}:/usr/local/bin:/usr/bin:/bin"


def run(server: Server | str, path: str, *argv: str, home: str = "/nonexistent") -> str:
    env = environment(server, {"PATH": path, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "words"), CASES)
def test_bash_completes(server: Server, path: str, line: str, words: set[str]) -> None:
    assert set(run(server, path, "bash", "-c", BASH, "bash", line).split()) == words


@pytest.mark.parametrize(("line", "words"), CASES)
def test_fish_completes(server: Server, path: str, tmp_path: Path, line: str, words: set[str]) -> None:
    said = run(server, path, "fish", "--no-config", "-c", FISH, line, home=str(tmp_path))
    assert set(said.split()) == words


@pytest.mark.parametrize(
    ("line", "shown"),
    [("cloner c", "Cancels"), ("cloner clone w", "win-uefi"), ("cloner clone web --method l", "inked")],
)
def test_zsh_completes(server: Server, path: str, line: str, shown: str) -> None:
    assert run(server, path, "zsh", "-f", "-c", ZSH, "zsh", line, shown) == "shown\n"


def test_a_name_that_a_shell_would_run_is_not_offered(path: str) -> None:
    names = ["$(touch${IFS}/tmp/owned)", "`id`", "a;id", "a b", "-rf", "*", "it's", "fine-1.2"]
    with Scripted(answer(200, [{"name": name} for name in names])) as scripted:
        assert run(scripted.url, path, "bash", "-c", BASH, "bash", "cloner rm ").split() == ["fine-1.2"]


def test_without_a_server_there_are_no_names_and_no_complaints(path: str) -> None:
    assert run("http://127.0.0.1:1", path, "bash", "-c", BASH, "bash", "cloner rm ").split() == []
