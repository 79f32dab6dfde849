"""The documentation site is built without a warning, and every link has a target."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


def build_site(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Sphinx as `make site` does."""
    line = ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(ROOT / "docs" / "site"), *options]
    return subprocess.run([sys.executable, *line, str(source), str(target)], capture_output=True, text=True)


class Page(HTMLParser):
    """The links of a page, and the anchors that links may name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses and ids of an element."""
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.add(value or "")
            elif name == "id":
                self.anchors.add(value or "")


def dead_links(site: Path) -> Iterator[str]:
    """Yield the links within the site whose file or anchor does not exist."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.exists()
            if found and parts.fragment and target in pages:
                found = unquote(parts.fragment) in pages[target].anchors
            if not found:
                yield f"{path.relative_to(site.resolve())}: {link}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built from this repository."""
    target = tmp_path_factory.mktemp("site")
    built = build_site(ROOT, target)
    assert (built.returncode, built.stderr) == (0, "")
    return target


def test_site_has_every_page_and_no_dead_link(site: Path) -> None:
    sources = {path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / path.with_suffix(".html")).exists() for path in sources | {Path("README.md")})
    assert sorted(dead_links(site)) == []


def test_site_is_self_contained_and_searchable(site: Path) -> None:
    page = Page(site / "docs" / "operations.html")
    loaded = {link for link in page.links if urlsplit(link).path.endswith((".js", ".css"))}
    assert loaded
    assert not [link for link in loaded if urlsplit(link).scheme]
    assert "quarantin" in (site / "searchindex.js").read_text()
    assert (site / "index.html").exists()


def test_site_with_dead_links_is_refused(tmp_path: Path) -> None:
    dead = ("missing.md", "#no-such-heading", "missing.json")
    (tmp_path / "page.md").write_text("# A page\n\n" + "\n\n".join(f"[gone]({target})" for target in dead) + "\n")
    built = build_site(tmp_path, tmp_path / "out", "-D", "root_doc=page", "-D", "include_patterns=page.md")
    assert built.returncode == 1
    warnings = [line for line in built.stderr.splitlines() if "target not found" in line]
    assert [target for target in dead if not any(target.strip("#") in line for line in warnings)] == []


def commit_version(repository: Path, version: str) -> None:
    """Commit a page and this version number, with the tag of a release."""
    (repository / "retrain" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (repository / "docs" / "page.md").write_text(f"# A page of {version}\n")
    git = ["git", "-C", str(repository), "-c", "user.name=author", "-c", "user.email=author@example.com"]
    for arguments in (["add", "."], ["commit", "--quiet", "--message", version], ["tag", f"v{version}"]):
        subprocess.run([*git, *arguments], check=True)


def test_site_of_several_versions_has_a_selector(tmp_path: Path) -> None:
    repository, site = tmp_path / "repository", tmp_path / "site"
    (repository / "retrain").mkdir(parents=True)
    shutil.copytree(ROOT / "docs" / "site", repository / "docs" / "site")
    (repository / "docs" / "site" / "index.md").write_text("# Docs\n\n```{toctree}\n../page\n```\n")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", repository], check=True)
    for version in ("0.1.0", "0.2.0"):
        commit_version(repository, version)
    command = [sys.executable, "-m", "sphinx_polyversion", "docs/site/versions.py", str(site)]
    built = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    versions = {"main": "0.2.0", "v0.1.0": "0.1.0", "v0.2.0": "0.2.0"}
    for name, version in versions.items():
        page = (site / name / "docs" / "page.html").read_text()
        assert f"A page of {version}" in page
        selector = page.partition('aria-label="Versions"')[2].partition("</nav>")[0]
        assert re.findall(r'aria-current="true">([^<]+)<', selector) == [name]
        links = re.findall(r'href="([^"]+)"', selector)
        assert {(site / name / "docs" / link).resolve() for link in links} == {
            (site / other / "docs" / "site" / "index.html").resolve() for other in versions
        }
    assert list(dead_links(site)) == []
