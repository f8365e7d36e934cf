"""Settings: what cloner.conf shows is what holds, what is wrong is refused by its name, and the command line wins."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloner import errors
from cloner.settings import DEFAULT_FILE, Settings, Switches, default_uri, demo_uri, load, switches

EVERYTHING = """
[wok]
enable = False
[cloner]
connect = qemu+ssh://host/system
state_dir = /srv/state
journal = postgresql://u:p%40ss@h/d
workers = 2
copies = 3
max_chain = 5
nvram_dir = /nvram
tpm_dir = /swtpm
keep_tasks_hours = 0.5
max_running_per_user = 7
max_bytes_per_user = 1000000000000
kimchi_bridge = yes
[server]
host = ::1
port = 0
server_names = cloner.example, cloner.lan:8443
tls_cert = /tls/chain.pem
tls_key = /tls/key.pem
auth = none
pam_service = sshd
admin_groups = wheel
user_groups = staff, domain users
threads = 2
max_streams = 1
session_minutes = 90
log_format = text
metrics_auth = none
trusted_proxies = 127.0.0.1, ::1 10.0.0.0/8
"""
ALL_SET = Settings(
    connect="qemu+ssh://host/system",
    state_dir="/srv/state",
    journal="postgresql://u:p%40ss@h/d",
    workers=2,
    copies=3,
    max_chain=5,
    nvram_dir="/nvram",
    tpm_dir="/swtpm",
    keep_tasks_hours=0.5,
    max_running_per_user=7,
    max_bytes_per_user=10**12,
    kimchi_bridge=True,
    host="::1",
    port=0,
    server_names="cloner.example, cloner.lan:8443",
    tls_cert="/tls/chain.pem",
    tls_key="/tls/key.pem",
    auth="none",
    pam_service="sshd",
    admin_groups="wheel",
    user_groups="staff, domain users",
    threads=2,
    max_streams=1,
    session_minutes=90.0,
    log_format="text",
    metrics_auth="none",
    trusted_proxies="127.0.0.1, ::1 10.0.0.0/8",
)


@pytest.fixture
def conf(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "cloner.conf"
        path.write_text(text, "utf-8")
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(errors.InvalidConfiguration) as caught:
        load(path)
    return caught.value.reason


# --- The file that we ship -------------------------------------------------------------------------------------------

COMMENTED = re.compile(r"^# ([a-z_]+) =(.*)$", re.MULTILINE)


def test_the_file_shows_every_setting_once_and_in_order() -> None:
    shown = [name for name, _ in COMMENTED.findall(DEFAULT_FILE.read_text("utf-8"))]
    assert shown == [field.name for field in fields(Settings)]


def test_the_file_shows_the_defaults(conf: Callable[[str], Path]) -> None:
    """As text, so that an empty default is shown as one, and as what the program makes of it."""
    text = DEFAULT_FILE.read_text("utf-8")
    shown = {name: value.strip() for name, value in COMMENTED.findall(text)}
    assert shown == {name: str(value).removesuffix(".0") for name, value in asdict(Settings()).items()}
    assert load(conf(COMMENTED.sub(r"\1 =\2", text))) == Settings()


def test_the_file_sets_nothing() -> None:
    assert load() == Settings()


def test_woks_parser_finds_no_percent_sign_in_the_file() -> None:
    assert "%" not in DEFAULT_FILE.read_text("utf-8")


# --- A file of one's own ---------------------------------------------------------------------------------------------


def test_every_setting_can_be_set(conf: Callable[[str], Path]) -> None:
    found = load(conf(EVERYTHING))
    assert found == ALL_SET
    assert all(value != default for value, default in zip(vars(found).values(), vars(Settings()).values(), strict=True))
    assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(Settings()).values()]


@pytest.mark.parametrize(
    ("text", "is_on"), [("True", True), ("on", True), ("1", True), ("False", False), ("no", False)]
)
def test_a_switch_is_on_or_off(conf: Callable[[str], Path], text: str, is_on: bool) -> None:
    path = conf(f"[wok]\nenable = {text}\n[cloner]\nkimchi_bridge = {text}\n")
    assert load(path).kimchi_bridge is is_on
    assert switches(path) == Switches(is_on, is_on)


def test_what_nobody_switched_is_as_we_ship_it(conf: Callable[[str], Path]) -> None:
    assert switches(conf("")) == switches(conf("[wok]\nenable =\n")) == switches(DEFAULT_FILE) == Switches()


@pytest.mark.parametrize("text", ["[wok]\nenable = perhaps", "[cloner]\nkimchi_bridge = 2", "enable", "[wok]\nenable"])
def test_a_switch_that_says_neither_is_refused(conf: Callable[[str], Path], text: str) -> None:
    with pytest.raises(errors.InvalidConfiguration):
        switches(conf(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'test:///x'", "test:///x"),
        ('"test:///x"', "test:///x"),
        ("test:///x", "test:///x"),
        ("''", ""),
        ("'", "'"),
        ("'a", "'a"),
        ("it's", "it's"),
    ],
)
def test_a_text_may_be_in_quotes(conf: Callable[[str], Path], text: str, value: str) -> None:
    """As there are Woks to which a value must be Python."""
    assert load(conf(f"[cloner]\nconnect = {text}\n")).connect == value


def test_an_empty_value_is_the_default(conf: Callable[[str], Path]) -> None:
    assert load(conf(re.sub(r"=.*", "=", EVERYTHING))) == Settings()


def test_a_file_may_be_empty_or_have_sections_for_cherrypy(conf: Callable[[str], Path]) -> None:
    assert load(conf("")) == Settings()
    assert load(conf("[/]\ntools.trailing_slash.on = False\n[cloner]\nworkers = 3")) == Settings(workers=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cloner]\nworker = 3", "no setting worker"),
        ("[server]\nlisten = 3", "no setting listen"),
        ("[servr]\nport = 80", "no section [servr]"),
        ("[server]\nport = http", "port must be a number, not http"),
        ("[server]\nport = 80.5", "port must be a number, not 80.5"),
        ("[server]\nport = 80 # the usual", "port must be a number"),
        ("[cloner]\nworkers = many", "workers must be a number, not many"),
        ("[cloner]\nkeep_tasks_hours = a day", "keep_tasks_hours must be a number, not a day"),
        ("[server]\nport = 65536", "port must be 0 to 65535"),
        ("[server]\nport = -1", "port must be 0 to 65535"),
        ("[server]\nauth = off", "auth must be one of token, pam, none"),
        ("[server]\nauth = pam", "auth pam needs admin_groups or user_groups"),
        ("[server]\ntrusted_proxies = nginx", "trusted_proxies: 'nginx' does not appear to be"),
        ("[server]\ntrusted_proxies = 10.0.0.1/8", "trusted_proxies: 10.0.0.1/8 has host bits set"),
        ("[server]\nmetrics_auth = open", "metrics_auth must be one of token, none"),
        ("[server]\nlog_format = xml", "log_format must be one of auto, json, text"),
        ("[server]\nthreads = 1", "threads must be at least 2"),
        ("[server]\nsession_minutes = 0", "session_minutes must be more than 0"),
        ("[server]\nsession_minutes = nan", "session_minutes must be more than 0"),
        ("[server]\nsession_minutes = inf", "session_minutes must be more than 0"),
        ("[cloner]\nworkers = 0", "workers must be at least 1"),
        ("[cloner]\ncopies = 0", "copies must be at least 1"),
        ("[cloner]\nmax_running_per_user = -1", "max_running_per_user must be 0 or more"),
        ("[cloner]\nmax_bytes_per_user = 10G", "max_bytes_per_user must be a number, not 10G"),
        ("[cloner]\nmax_bytes_per_user = -1", "max_bytes_per_user must be 0 or more"),
        ("[cloner]\nkeep_tasks_hours = -1", "keep_tasks_hours must be 0 or more"),
        ("[cloner]\nkeep_tasks_hours = nan", "keep_tasks_hours must be 0 or more"),
        ("[cloner]\nkeep_tasks_hours = 1e999", "keep_tasks_hours must be 0 or more"),
        ("workers = 3", "no section headers"),
        ("[cloner]\nworkers", "workers"),
        ("[cloner]\nworkers = 3\nworkers = 4", "workers"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(conf: Callable[[str], Path], text: str, words: str) -> None:
    assert words in refused(conf(text))


@pytest.mark.parametrize("text", ["[server]\nport = 65535", "[server]\nport = 0", "[cloner]\nkeep_tasks_hours = 0"])
def test_what_is_just_right_is_taken(conf: Callable[[str], Path], text: str) -> None:
    assert load(conf(text)) != Settings()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "no-such-file" in refused(tmp_path / "no-such-file")
    (tmp_path / "latin").write_bytes("[cloner]\nstate_dir = /srv/für".encode("latin-1"))
    assert "utf-8" in refused(tmp_path / "latin")


# --- The command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_the_command_line_comes_before_the_file(conf: Callable[[str], Path], field: str) -> None:
    default = getattr(Settings(), field)
    assert load(conf(EVERYTHING), {field: default}) == replace(ALL_SET, **{field: default})


def test_what_the_command_line_leaves_out_is_the_files(conf: Callable[[str], Path]) -> None:
    assert load(conf(EVERYTHING), dict.fromkeys(vars(Settings()))) == ALL_SET


def test_the_command_line_is_checked_too() -> None:
    with pytest.raises(errors.InvalidConfiguration, match="port must be"):
        load(overrides={"port": 70000})


# --- Places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "home", "connect", "folder"),
    [
        (0, None, "qemu:///system", "/var/lib/cloner"),
        (0, "/state", "test:///default", "/var/lib/cloner-demo"),
        (1000, None, "qemu:///session", "/home/ann/.local/state/cloner"),
        (1000, "", "qemu:///session", "/home/ann/.local/state/cloner"),
        (1000, "/state", "qemu:///session", "/state/cloner"),
        (1000, "/state", demo_uri(), "/state/cloner-demo"),
    ],
)
def test_the_state_lies_where_its_user_keeps_such_things(
    monkeypatch: pytest.MonkeyPatch, user: int, home: str | None, connect: str, folder: str
) -> None:
    """And the demo's apart from it, lest its tasks be taken for real ones."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("XDG_STATE_HOME", home)
    assert str(Settings(connect=connect).folder) == folder


@pytest.mark.parametrize(("given", "expected"), [("/srv/x", "/srv/x"), ("~/x", "/home/ann/x"), ("x", "/here/x")])
def test_a_state_directory_that_was_named_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path)
    assert str(Settings(state_dir=given).folder) == expected.replace("/here", str(tmp_path))


@pytest.mark.parametrize("folder", ["/srv/state", "/srv/what?now#50%", "/srv/%41/it's mine"])
def test_the_journal_lies_in_the_state_directory_whatever_it_is_called(folder: str) -> None:
    url = sa.make_url(Settings(state_dir=folder).journal_url)
    assert (url.drivername, url.database) == ("sqlite", f"{folder}/journal.sqlite")


def test_a_journal_that_was_named_is_used() -> None:
    assert Settings(journal="postgresql://h/d").journal_url == "postgresql://h/d"


@pytest.mark.parametrize(("user", "uri"), [(0, "qemu:///system"), (1000, "qemu:///session")])
def test_libvirt_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch, user: int, uri: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert default_uri() == uri


def test_the_demos_inventory_is_there() -> None:
    assert Settings(connect=demo_uri()).is_demo
    assert Path(demo_uri().removeprefix("test://")).is_file()
    assert not Settings(connect="qemu:///system").is_demo
