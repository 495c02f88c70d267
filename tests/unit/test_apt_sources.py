"""apt's sources, found, judged and rewritten as texts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import apt_sources

from tests.text import replaced

URI = "https://download.docker.com/linux/debian"
KEYRING = "/etc/apt/keyrings/docker.gpg"
LIST = "/etc/apt/sources.list.d/docker.list"
SOURCES = "/etc/apt/sources.list.d/docker.sources"
OTHER = "/etc/apt/sources.list.d/other.sources"
DEBIAN = "deb http://deb.debian.org/debian bookworm main\n"
ROW = f"deb [arch=amd64 signed-by={KEYRING}] {URI} bookworm stable\n"
STANZA = f"""\
Types: deb
URIs: {URI}
Suites: bookworm
Components: stable
Architectures: amd64
Signed-By: {KEYRING}
"""
FOREIGN = "Types: deb\nURIs: https://example.org/apt\nSuites: ./\n"


def source(kind: str = "deb822", **more: Any) -> dict[str, Any]:
    return {
        "name": "docker",
        "format": kind,
        "uris": [URI],
        "suites": ["bookworm"],
        "components": ["stable"],
        "architectures": ["amd64"],
        "keyring": KEYRING,
        **more,
    }


def is_right(text: str, kind: str = "deb822", **more: Any) -> bool:
    wanted = source(kind, **more)
    right, foreign = apt_sources.judge(wanted, {apt_sources.path_of(wanted): text}, "amd64")
    assert foreign == {}
    return bool(right)


def cleaned(path: str, text: str) -> str:
    """A file after our URI was taken out of it."""
    return str(apt_sources.judge(source(), {path: text}, "amd64")[1].get(path, text))


@pytest.mark.parametrize(
    ("uri", "normal"),
    [
        (URI, "http://download.docker.com/linux/debian"),
        ("HTTP://Download.Docker.COM/linux/debian//", "http://download.docker.com/linux/debian"),
        ("https://me:pw@mirror.example:443/linux//debian/", "http://mirror.example/linux/debian"),
        ("http://mirror.example:8080/deb/$(ARCH)", "http://mirror.example:8080/deb/amd64"),
        ("https://mirror.example/Deb", "http://mirror.example/Deb"),
        ("file:///srv/apt/", "file:///srv/apt"),
        ("cdrom:[disc]/", "cdrom:[disc]"),
    ],
)
def test_spellings_of_one_repository_are_equal(uri: str, normal: str) -> None:
    assert apt_sources.normal_uri(uri, "amd64") == normal


def test_a_source_is_written_in_the_format_that_is_asked_for() -> None:
    assert (apt_sources.path_of(source()), apt_sources.render(source())) == (SOURCES, STANZA)
    assert (apt_sources.path_of(source("list")), apt_sources.render(source("list"))) == (LIST, ROW)


def test_a_flat_repository_for_every_architecture_has_neither_field() -> None:
    flat: dict[str, Any] = {"uris": ["https://a", "https://b"], "suites": ["/"], "components": [], "architectures": []}
    assert apt_sources.render(source(**flat)) == (
        f"Types: deb\nURIs: https://a https://b\nSuites: /\nSigned-By: {KEYRING}\n"
    )
    assert apt_sources.render(source("list", **flat)) == (
        f"deb [signed-by={KEYRING}] https://a /\ndeb [signed-by={KEYRING}] https://b /\n"
    )


@pytest.mark.parametrize(
    ("path", "text", "uris_and_spans"),
    [
        (LIST, f"# mine\n\n{ROW}# deb http://old ./\n", [([URI], (2, 3))]),
        (
            LIST,
            "deb-src [ trusted=yes ] http://x y z # why\r\n\tdeb http://z ./",
            [(["http://x"], (0, 1)), (["http://z"], (1, 2))],
        ),
        (LIST, "deb http://x\nnonsense\n", []),
        (OTHER, f"# head\n\n{STANZA}\n \n{FOREIGN}", [([URI], (2, 8)), (["https://example.org/apt"], (10, 13))]),
        (OTHER, f"{STANZA}Enabled: No\n", []),
        (OTHER, f"{STANZA}Enabled: yes\n", [([URI], (0, 7))]),
        (OTHER, "uris:\r\n http://a\r\n# gone: http://c\r\n\thttp://b\r\n", [(["http://a", "http://b"], (0, 4))]),
        (OTHER, "Types: deb\nSuites: x\n", []),
    ],
)
def test_the_entries_that_apt_uses_are_found(path: str, text: str, uris_and_spans: list[Any]) -> None:
    assert [(entry["uris"], entry["span"]) for entry in apt_sources.entries(path, text)] == uris_and_spans


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (STANZA, "deb822"),
        (replaced(STANZA, "\n", "\r\n"), "deb822"),
        (
            f"# by hand\n\n{STANZA.lower().replace(KEYRING.lower(), KEYRING)}Enabled: yes\nX-Repolib-Name: Docker\n",
            "deb822",
        ),
        (replaced(STANZA, URI, f"\n {URI}/"), "deb822"),
        (f"#\n{ROW}", "list"),
        (f"deb  [signed-by={KEYRING}  Arch=amd64]  {URI}/  bookworm  stable  # Docker", "list"),
    ],
)
def test_what_means_the_same_to_apt_is_right(text: str, kind: str) -> None:
    assert is_right(text, kind)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("bookworm", "trixie"),
        ("stable", "stable test"),
        ("amd64", "amd64 arm64"),
        (KEYRING, "/usr/share/keyrings/docker.gpg"),
        ("https:", "http:"),
        ("Types: deb", "Types: deb deb-src"),
        ("Types: deb", "Trusted: yes\nTypes: deb"),
        ("Types: deb", "Enabled: no\nTypes: deb"),
        (STANZA, ""),
    ],
)
def test_any_other_meaning_is_not(before: str, after: str) -> None:
    assert not is_right(replaced(STANZA, before, after))


def test_the_order_of_architectures_and_uris_is_no_difference() -> None:
    more: dict[str, Any] = {"uris": ["https://a", "https://b"], "architectures": ["amd64", "arm64"]}
    text = apt_sources.render(source(**more)).replace("https://a https://b", "https://b https://a")
    assert is_right(replaced(text, "amd64 arm64", "arm64 amd64"), **more)


@pytest.mark.parametrize(
    ("path", "text", "left"),
    [
        (apt_sources.MAIN, DEBIAN + ROW + "# end\n", DEBIAN + "# end\n"),
        (LIST, "deb http://DOWNLOAD.docker.com/linux/debian/ bookworm edge\n" * 2, ""),
        (LIST, f"# deb {URI} bookworm stable\n", f"# deb {URI} bookworm stable\n"),
        (LIST, f"deb {URI}-security bookworm stable\n", f"deb {URI}-security bookworm stable\n"),
        (OTHER, f"{STANZA}\n{FOREIGN}", FOREIGN),
        (OTHER, f"{FOREIGN}\n{STANZA}", FOREIGN),
        (OTHER, f"{FOREIGN}\n{STANZA}\n{FOREIGN}", f"{FOREIGN}\n{FOREIGN}"),
        (OTHER, replaced(STANZA, URI, f"https://a {URI} https://b"), replaced(STANZA, URI, "https://a https://b")),
        (OTHER, f"URIs:\n https://a\n# c\n {URI}\nSuites: x\n", "URIs: https://a\n# c\nSuites: x\n"),
        (OTHER, f"URIs : {URI} https://a\nSuites: x\n", "URIs: https://a\nSuites: x\n"),
        (OTHER, f"URIs: {URI} https://a\r\nSuites: x\r\n", "URIs: https://a\r\nSuites: x\r\n"),
    ],
)
def test_only_our_uri_goes_from_a_foreign_file(path: str, text: str, left: str) -> None:
    assert cleaned(path, text) == left


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({apt_sources.MAIN: DEBIAN}, {SOURCES: STANZA}),
        ({SOURCES: STANZA, apt_sources.MAIN: DEBIAN}, {}),
        ({SOURCES: FOREIGN}, {SOURCES: f"{FOREIGN}\n{STANZA}"}),
        ({SOURCES: f"{STANZA}\n{FOREIGN}"}, {}),
        ({SOURCES: STANZA, LIST: ROW}, {LIST: None}),
        ({LIST: "# kept\n" + ROW}, {SOURCES: STANZA, LIST: "# kept\n"}),
        ({SOURCES: STANZA, apt_sources.MAIN: ROW}, {apt_sources.MAIN: ""}),
        ({SOURCES: f"{STANZA} \n{FOREIGN}"}, {SOURCES: f"{FOREIGN}\n{STANZA}"}),
        # A name that apt does not read.
        ({SOURCES: STANZA, "/etc/apt/sources.list.d/docker (1).list": ROW}, {}),
    ],
)
def test_only_files_that_differ_are_rewritten(files: dict[str, str], changed: dict[str, str | None]) -> None:
    before = dict(files)
    assert apt_sources.rewritten([source()], files, "amd64") == changed
    assert files == before


def test_two_sources_in_one_foreign_file_both_go_from_it() -> None:
    nvidia = source(name="nvidia", uris=["https://nvidia.github.io/deb/$(ARCH)"])
    files = {LIST: ROW + DEBIAN + "deb https://nvidia.github.io/deb/amd64 /\n"}
    changed = apt_sources.rewritten([source(), nvidia], files, "amd64")
    assert changed[LIST] == DEBIAN
    assert sorted(changed) == [LIST, SOURCES, "/etc/apt/sources.list.d/nvidia.sources"]


@pytest.mark.parametrize(
    ("files", "changed", "keyring_goes"),
    [
        ({SOURCES: STANZA, apt_sources.MAIN: DEBIAN}, {SOURCES: None}, True),
        ({SOURCES: f"{FOREIGN}\n{STANZA}"}, {SOURCES: FOREIGN}, True),
        ({LIST: ROW + DEBIAN}, {LIST: DEBIAN}, True),
        ({SOURCES: STANZA, OTHER: replaced(STANZA, URI, "https://a")}, {SOURCES: None}, False),
        ({SOURCES: FOREIGN, LIST: DEBIAN}, {}, True),
        ({SOURCES: replaced(STANZA, KEYRING, "/etc/apt/keyrings/docker.asc")}, {}, True),
        ({}, {}, True),
    ],
)
def test_a_source_that_goes_leaves_what_others_wrote(
    files: dict[str, str], changed: dict[str, str | None], keyring_goes: bool
) -> None:
    assert apt_sources.forgotten({"name": "docker", "keyring": KEYRING}, files) == (changed, keyring_goes)


MIRROR = replaced(STANZA, "download.docker.com/linux", "mirrors.example.org/docker-ce/linux")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Written for another mirror, or by the vendor's instructions, in our file: it is replaced.
        (MIRROR, STANZA),
        (replaced(MIRROR, KEYRING, "/etc/apt/keyrings/docker.asc"), STANZA),
        (replaced(STANZA, KEYRING, "/etc/apt/keyrings/docker.asc"), STANZA),
        # Others stay, whatever they share with ours.
        (replaced(STANZA, URI, "https://example.org/x") + "\n" + FOREIGN, f"{FOREIGN}\n{STANZA}"),
        (f"# mine\n\n{FOREIGN}", f"# mine\n\n{FOREIGN}\n{STANZA}"),
        (
            replaced(replaced(STANZA, KEYRING, "/k.gpg"), URI, "https://example.org/apt"),
            replaced(replaced(STANZA, KEYRING, "/k.gpg"), URI, "https://example.org/apt") + "\n" + STANZA,
        ),
        (
            f"Enabled: no\n{STANZA}",
            f"Enabled: no\n{STANZA}\n{STANZA}",
        ),
        (
            f"{FOREIGN}Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n\n# end",
            f"{FOREIGN}Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n\n# end\n\n{STANZA}",
        ),
        ("", STANZA),
        ("\n\n", STANZA),
        # apt takes both for one stanza, of the second one's URIs.
        (f"{STANZA} \n{FOREIGN}", f"{FOREIGN}\n{STANZA}"),
        (f"{FOREIGN}\t\n{STANZA}", f"{FOREIGN}\n{STANZA}"),
    ],
)
def test_other_stanzas_of_our_file_stay(before: str, after: str) -> None:
    assert apt_sources.own_text(source(), before, "amd64") == after
    assert is_right(after)
