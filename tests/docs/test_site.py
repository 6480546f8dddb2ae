"""The site as a reader has it: built strictly, opened from its folder in a browser, as wide as a desk and a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import WIDTHS, Seen, page_of_a_site
from cli_runs import REPOSITORY
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import callbacks


def built(folder: Path, **changes: object) -> Path:
    config = load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True, **changes)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def seen(site) -> Iterator[Seen]:
    with page_of_a_site() as seen:
        yield seen


def test_every_page_loads_without_errors_or_other_hosts_and_fits_every_width(site, seen):
    pages = sorted(set(site.rglob("*.html")) - {site / "404.html"})  # which only a server shows
    assert len(pages) > 30
    too_wide = []
    for page in pages:
        seen.show(page.as_uri(), WIDTHS["desktop"])
        too_wide += [(page.name, name, by) for name, width in WIDTHS.items() if (by := seen.overflow(width)) > 0]
    assert too_wide == []
    assert seen.errors == []
    assert seen.foreign == []


def test_the_search_finds_a_word_without_a_server(site, seen):
    results = seen.page.locator(".md-search-result__link").filter(has_text="dormant")
    for seconds in (1, 3, 10, 30):  # what is typed before the page's scripts are ready is not looked for
        seen.show((site / "index.html").as_uri(), WIDTHS["desktop"])
        seen.page.wait_for_timeout(1000 * seconds)
        seen.page.locator(".md-search__input").fill("dormant")
        seen.page.wait_for_timeout(1000 * seconds)
        if results.count() > 3:
            break
    assert results.count() > 3
    assert seen.errors == []


def test_help_and_docstrings_are_on_the_site(site):
    commands = (site / "reference/command_line.html").read_text()
    assert "--max_frames" in commands
    assert "<!-- help" not in commands
    reference = (site / "reference/callbacks.html").read_text()
    assert 'id="callbacks.interventions.reset.Reset"' in reference
    assert reference.count("<strong>Mutates.</strong>") == len(callbacks.__all__)
    assert "[Unreleased]" in (site / "changelog.html").read_text()


def test_links_out_of_the_pages_lead_to_files_of_the_repository(site):
    blob = "https://github.com/plasticity-rl/plasticity_rl/blob/main/"
    found = {link for page in site.rglob("*.html") for link in re.findall(rf'"{blob}([^"#]+)', page.read_text())}
    assert "CONTRIBUTING.md" in found
    assert [link for link in found if not (REPOSITORY / link).exists()] == []


@pytest.mark.parametrize("link", ["nowhere.md", "concepts.md#nowhere"])
def test_a_broken_link_or_anchor_is_refused(link, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.md").write_text(f"# Home\n\n[a link]({link})\n")
    (pages / "concepts.md").write_text("# Concepts\n")
    changes = {"docs_dir": str(pages), "nav": ["index.md", "concepts.md"], "hooks": [], "plugins": []}
    with pytest.raises(Abort, match="1 warnings"):
        built(tmp_path / "site", **changes)
