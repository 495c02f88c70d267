"""Build the documentation site in build/site, and the man pages in build/man: a part of ``./dev docs``.

The pages are README.md, docs/*.md, the changelog and the other README files of the checkout, at the places that PAGES
and SECTIONS give them. The page of the command line is from typer, those of modules and filters from antsibull-docs.
Links between pages are rewritten; a link to any other file of the checkout becomes its text. Warnings are errors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from tools import man

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SITE, SOURCE, COLLECTION = (BUILD / name for name in ("site", "docs", "collection"))
_NAME = "ansible_collections/gpuprov/gpuprov"

# {file of the checkout: page}; docs/NAME.md becomes NAME.
PAGES = {
    "README.md": "index",
    "README.zh-CN.md": "zh-CN",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.rst": "changelog",
    "SECURITY.md": "security",
    "examples/image/README.md": "example-image",
    "tests/lab/README.md": "lab",
    **{str(path.relative_to(ROOT)): path.stem for path in sorted(ROOT.glob("docs/*.md"))},
    **{str(path.relative_to(ROOT)): f"roles/{path.parent.name}" for path in sorted(ROOT.glob("roles/*/README.md"))},
}
# {title: pages in their order}. A page of docs/ that is named nowhere is a how-to.
SECTIONS = {
    "Start here": ["README <self>", "简体中文 <zh-CN>"],
    "How to": [
        "usage", "lock", "bundle", "images", "example-image", "registry-cache", "ansible", "awx", "ci",
        "troubleshooting",
    ],
    "Reference": [
        "commands", "variables", "changes", "doctor", "json", "Roles <roles/index>",
        "Modules and filters <collection/index>",
    ],
    "Explanation": ["how-it-works", "safety", "gpu-containers"],
    "Measured": ["performance", "reliability", "gpu", "scale"],
    "The project": ["contributing", "lab", "security", "changelog"],
}  # fmt: skip


def main() -> int:
    """Build everything; return an exit status."""
    for directory in (SITE, SOURCE, COLLECTION):
        shutil.rmtree(directory, ignore_errors=True)
    _stage()
    _stage_collection()
    man.write()
    words = ["sphinx-build", "-q", "-W", "--keep-going", "-b", "html", "-c", "tools", str(SOURCE), str(SITE)]
    if subprocess.run([_program(words[0]), *words[1:]], cwd=ROOT, check=False).returncode:
        return 1
    wrong = sorted(set(problems(SITE)))
    print(*wrong, sep="\n", file=sys.stderr) if wrong else print(f"{SITE / 'index.html'}\n{man.MAN}")
    return bool(wrong)


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _environment(**more: str) -> dict[str, str]:
    """Return an environment in which antsibull-docs finds ansible-doc."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}", **more}


# ---- Pages ---------------------------------------------------------------------------------------


def _stage() -> None:
    for file, page in PAGES.items():
        if (ROOT / file).exists():
            target = SOURCE / f"{page}{Path(file).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (ROOT / file).read_text(encoding="utf-8")
            target.write_text(rewritten(text, file) if target.suffix == ".md" else text, encoding="utf-8")
    for picture in ROOT.glob("docs/*.svg"):
        shutil.copy(picture, SOURCE)
    commands = subprocess.run(
        [_program("typer"), "gpuprov.cli", "utils", "docs", "--name", "gpuprov", "--title", "Commands"],
        cwd=ROOT, env=_environment(COLUMNS="100"), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (SOURCE / "commands.md").write_text(commands, encoding="utf-8")
    roles = sorted(path.stem for path in SOURCE.glob("roles/*.md"))
    (SOURCE / "roles/index.md").write_text(f"# Roles\n\n{_toctree(roles)}", encoding="utf-8")
    sections = {title: [one for one in pages if _exists(one)] for title, pages in SECTIONS.items()}
    named = {_page(one) for pages in SECTIONS.values() for one in pages}
    sections["How to"] += [path.stem for path in sorted(ROOT.glob("docs/*.md")) if path.stem not in named]
    with (SOURCE / "index.md").open("a", encoding="utf-8") as index:
        index.writelines("\n" + _toctree(pages, f":caption: {title}\n:hidden:\n") for title, pages in sections.items())


def _page(entry: str) -> str:
    return entry.partition(" <")[2].rstrip(">") or entry


def _exists(entry: str) -> bool:
    page = _page(entry)
    return page in ("self", "collection/index") or any(SOURCE.glob(f"{page}.*"))


def _toctree(pages: list[str], options: str = "") -> str:
    return f"```{{toctree}}\n{options}\n" + "".join(f"{page}\n" for page in pages) + "```\n"


def rewritten(text: str, file: str) -> str:
    """Return the text of a file of the checkout with the links of its page on the site."""
    here = (Path("/") / PAGES[file]).parent

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        path, _, section = target.partition("#")
        if "://" in target or not path:
            return match[0]
        of_checkout = os.path.relpath((ROOT / file).parent / path, ROOT)
        if of_checkout in PAGES:
            page = os.path.relpath(Path("/") / PAGES[of_checkout], here)
            # Sphinx puts the title of the page where there is no text.
            words = "" if words == path and not section else words
            return f"[{words}]({page}{Path(of_checkout).suffix}{'#' * bool(section)}{section})"
        return match[0] if path.endswith(".svg") else words

    # Pictures keep their place beside the page.
    text = re.sub(r"\]\(docs/([\w-]+\.svg)\)", r"](\1)", text)
    return re.sub(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)", link, text)


# ---- Roles, modules and filters ------------------------------------------------------------------


def _stage_collection() -> None:
    """Have antsibull-docs write the pages of modules and filters. Those of roles are their README files."""
    copy = COLLECTION / _NAME
    shutil.copytree(ROOT / "plugins", copy / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    (copy / "galaxy.yml").write_text(yaml.safe_dump(galaxy), encoding="utf-8")
    shutil.copytree(ROOT / "meta", copy / "meta")
    pages = SOURCE / "collection"
    pages.mkdir(mode=0o755)
    subprocess.run(
        [
            _program("antsibull-docs"), "collection", "--use-current", "--squash-hierarchy", "--fail-on-error",
            "--no-breadcrumbs", "--no-add-antsibull-docs-version", "--dest-dir", str(pages), "gpuprov.gpuprov",
        ],
        env=_environment(ANSIBLE_COLLECTIONS_PATH=str(COLLECTION)), check=True,
    )  # fmt: skip
    texts = {page: page.read_text(encoding="utf-8") for page in pages.glob("*.rst")}
    labels = {label for text in texts.values() for label in re.findall(r"^\.\. _(.+):$", text, re.MULTILINE)}

    def known(match: re.Match[str]) -> str:
        # Sections of Ansible's own documentation cannot be looked up without a network.
        return match[0] if match[2] in labels else match[1] or match[3]

    for page, text in texts.items():
        page.write_text(re.sub(r":ref:`(?:([^`<]*?) ?<([^`>]+)>|([^`<]+))`", known, text), encoding="utf-8")


# ---- Links ---------------------------------------------------------------------------------------


def problems(site: Path) -> Iterator[str]:
    """Yield links of the built pages that lead nowhere, and what a browser would fetch from elsewhere."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for page, text in pages.items():
        for tag, attribute, target in re.findall(r"<(\w+)\b[^>]*?\s(href|src)=\"([^\"]*)\"", text):
            url = urlsplit(target)
            where = f"{page.relative_to(site)}: {target}"
            if url.scheme or url.netloc:
                # Links that a person follows may leave the site.
                if attribute == "src" or tag == "link":
                    yield f"{where}: fetched from elsewhere"
                continue
            file = (page.parent / unquote(url.path)).resolve() if url.path else page
            if not file.exists():
                yield f"{where}: no such file"
            elif url.fragment and file in anchors and unquote(url.fragment) not in anchors[file]:
                yield f"{where}: no such section"


if __name__ == "__main__":
    sys.exit(main())
