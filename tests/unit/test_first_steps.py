"""What a person starts with: init, completion, explain; and what a bug report needs: --version, support-bundle."""

from __future__ import annotations

import json
import os
import re
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import explained
from typer.testing import CliRunner, Result

from gpuprov import cli, completion
from gpuprov.explain import names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own, which is also the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def gpuprov(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli.app, words, env=env, prog_name="gpuprov")


# ---- init ----------------------------------------------------------------------------------------


def test_init_writes_an_inventory_in_which_every_host_is_a_comment(home: Path) -> None:
    (home / ".ssh/config").write_text("Include more\nHost gpu01 *.example gpu02\n  User ubuntu\nHost=gpu03\n")
    (home / ".ssh/more").write_text("Include more\nHost build01\n")
    (home / ".ssh/known_hosts").write_text(
        "gpu01,192.0.2.1 ssh-ed25519 AAAA\n[gpu04]:2222 ssh-ed25519 AAAA\n"
        "|1|abc=|def= ssh-ed25519 AAAA\n@revoked x y z\n"
    )
    said = gpuprov("init", "site").stdout
    hosts = (home / "site/hosts.ini").read_text()
    found = re.search(r"known_hosts:\n(.*?); gpu01 ansible_host", hosts, re.DOTALL)
    assert found is not None
    assert found[1].split("\n") == ["; build01", "; gpu01", "; gpu02", "; gpu03", "; gpu04 ansible_port=2222", ""]
    assert [line for line in hosts.splitlines() if line and line[0] not in ";["] == []
    assert (home / "site/group_vars/all.yml").read_text() == (ROOT / "inventory/group_vars/all.yml").read_text()
    assert "gpuprov plan site/hosts.ini" in said


def test_init_overwrites_nothing_also_not_through_a_link(home: Path) -> None:
    (home / "hosts.ini").write_text("mine")
    (home / "group_vars").mkdir()
    (home / "group_vars/all.yml").symlink_to(home / "elsewhere.yml")
    said = gpuprov("init").stdout
    assert (home / "hosts.ini").read_text() == "mine"
    assert not (home / "elsewhere.yml").exists()
    assert "kept as it is: hosts.ini" in said
    assert "kept as it is: group_vars/all.yml" in said


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_init_in_a_file_is_refused_in_one_line(home: Path, name: str) -> None:
    (home / "file").touch()
    result = gpuprov("init", name)
    assert result.exit_code == 1
    assert re.fullmatch(r"file\S* (is not a directory|cannot be written: Not a directory)", str(result.exception))


# ---- Completion ----------------------------------------------------------------------------------

INI = "[gpu]\ngpu[01:03] ansible_host=192.0.2.1\nlogin:2222\n# no\n[cpu:children]\ngpu\n[gpu:vars]\nansible_user=x\n"
YAML = """
all:
  children:
    gpu: {hosts: {"gpu[01:02]": {password: !vault "x"}}}
    login:
"""


def completed(line: str) -> list[str]:
    """Return what bash is offered for the last word of a line."""
    words = line.split(" ")
    shell = {"_GPUPROV_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = gpuprov(env=shell)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("gpuprov prov", ["provision"]),
        ("gpuprov plan --lim", ["--limit"]),
        ("gpuprov plan hosts.ini --limit gpu", ["gpu", "gpu01", "gpu02", "gpu03"]),
        ("gpuprov plan hosts.ini -l gpu01,lo", ["gpu01,login"]),
        ("gpuprov plan hosts.ini -l all:!c", ["all:!cpu"]),
        ("gpuprov plan hosts.yml -l g", ["gpu", "gpu01", "gpu02"]),
        ("gpuprov plan directory -l g", ["gpu", "gpu01", "gpu02", "gpu03"]),
        ("gpuprov plan a1,a2,b1 -l a", ["a1", "a2", "all"]),
        ("gpuprov image ship train:1.0.0 hosts.ini -l lo", ["login"]),
        ("gpuprov explain docker_ce_ho", ["docker_ce_hold"]),
        # None: the shell completes files then, and nothing is said of what is wrong.
        ("gpuprov plan hos", []),
        ("gpuprov plan gone.ini -l g", []),
        ("gpuprov plan broken.yml -l g", []),
        ("gpuprov plan -l g", []),
    ],
)
def test_completion(home: Path, line: str, offered: list[str]) -> None:
    (home / "hosts.ini").write_text(INI)
    (home / "hosts.yml").write_text(YAML)
    (home / "broken.yml").write_text("all: [")
    (home / "directory/group_vars").mkdir(parents=True)
    (home / "directory/hosts").write_text(INI)
    assert completed(line) == offered


def test_a_script_is_asked_through_ansible(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_LIMIT", 600)  # a busy machine
    script = home / "inventory.sh"
    script.write_text("""#!/bin/sh\necho '{"_meta": {"hostvars": {}}, "gpu": {"hosts": ["gpu07"]}}'\n""")
    script.chmod(0o755)
    assert completed(f"gpuprov plan {script} -l gpu") == ["gpu", "gpu07"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    assert "gpuprov" in gpuprov(env={"_GPUPROV_COMPLETE": f"source_{shell}"}).stdout


# ---- explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_everything_that_is_offered_is_explained(name: str) -> None:
    result = gpuprov("explain", name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}: ")
    assert "What to do:" in result.stdout


def test_explain_says_what_the_docs_say() -> None:
    docs = {name: (ROOT / f"docs/{name}.md").read_text() for name in ("doctor", "changes", "variables")}
    for name, page in (("no-driver", "doctor"), ("docker group", "changes"), ("docker_ce_hold", "variables")):
        first = " ".join(gpuprov("explain", name).stdout.splitlines()[1].split()).partition(": ")
        assert (first[2] or first[0]) in docs[page]


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    result = gpuprov("explain", "docker_ce_hld")
    assert str(result.exception).startswith("nothing is known about 'docker_ce_hld'; did you mean docker_ce_hold")


def test_all_variables_of_the_playbooks_are_explained() -> None:
    assert set(role_options.PLAYBOOK_OPTIONS) <= set(explained.PLAYBOOK_VARIABLES)


# ---- What a bug report needs ---------------------------------------------------------------------


def test_version_names_everything_that_a_bug_report_needs() -> None:
    lines = gpuprov("--version").stdout.splitlines()
    assert lines[:3] == [f"{name} {version(name)}" for name in ("gpuprov", "ansible-core", "ansible-runner")]
    assert [line.split()[0].partition("_")[0] for line in lines[3:]] == ["Python", lines[4].split()[0], "OpenSSH"]


def test_a_support_bundle_has_the_last_runs_without_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_PRIVATE_KEY_FILE", "/keys/s3cr3t")
    monkeypatch.setenv("ANSIBLE_REMOTE_USER", "fleet")
    for number in range(5):
        run = home / f".local/state/gpuprov/runs/2026{number}"
        run.mkdir(parents=True)
        (run / "log").write_text("get http://u:s3cr3t@example.com/, password=s3cr3t\n")
        (run / "result.json").write_text(json.dumps({"hosts": {"gpu01": {"token": "s3cr3t", "message": "fine"}}}))
        (run / "other").write_text("s3cr3t")
    result = gpuprov("support-bundle", "-o", "bundle.tar.gz")
    assert result.exit_code == 0
    assert os.stat("bundle.tar.gz").st_mode & 0o777 == 0o600
    with tarfile.open("bundle.tar.gz") as archive:
        files = {one.name.partition("/")[2]: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]
    runs = [f"runs/2026{number}/{name}" for number in (2, 3, 4) for name in ("log", "result.json")]
    assert sorted(files) == sorted(["ansible-settings.txt", "versions.txt", *runs])
    assert [name for name, text in files.items() if "s3cr3t" in text] == []
    assert "fleet" in files["ansible-settings.txt"]
    assert "fine" in files["runs/20264/result.json"]
    assert re.findall(r"^  (\S+)$", result.stdout, re.MULTILINE) == list(files)
    assert gpuprov("support-bundle", "-o", "bundle.tar.gz").exit_code == 1
