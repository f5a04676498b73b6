"""The docs site: built strictly, from its own host alone, with links that lead somewhere."""

import logging
import re
import runpy
import shutil
import tomllib
from types import SimpleNamespace

import pytest
import yaml
from paths import ROOT
from site_pages import OUTSIDE, PAGES, build

HOOKS = runpy.run_path(str(ROOT / "docs/site_hooks.py"))


@pytest.mark.slow
def test_the_site_takes_nothing_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)  # and a page for what is missing
    loaded = (
        r"<(?:script|img|iframe|source)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//"
    )
    for page in pages:
        found = re.search(loaded, page.read_text())
        assert found is None, (page.name, found)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(?:https?:)?//|@import", sheet.read_text()), sheet.name


@pytest.mark.slow
def test_the_site_is_searched_without_a_server(site):
    assert "calibration" in (site / "search/search_index.js").read_text()
    assert "javascripts/iframe-worker.js" in (site / "index.html").read_text()


@pytest.mark.slow
def test_the_front_page_is_the_readme_with_links_into_the_site(site):
    front = (site / "index.html").read_text()
    assert 'href="tutorial.html"' in front
    assert 'src="images/report_desktop.png"' in front
    assert (site / "images/report_desktop.png").exists()
    assert "docs/tutorial" not in front
    assert 'href="deploy.html"' in (site / "team.html").read_text()


@pytest.mark.slow
def test_links_that_lead_nowhere_fail_the_build(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    kept = {path.name for path in tmp_path.iterdir()}
    for path in ROOT.iterdir():
        if path.name not in kept | {"site"}:
            (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs/many.md").open("a") as page:
        page.write("\n[a](no-page.md) [b](../src/no-file.py) [c](tuning.md#no-heading)\n")
    built = build("out", tmp_path)
    assert built.returncode != 0
    for target in ("no-page.md", "src/no-file.py", "#no-heading"):
        assert target in built.stderr
    assert built.stderr.count("WARNING -") == 3


def resolved(text, name="team.md", repo_url=""):
    page = SimpleNamespace(file=SimpleNamespace(src_uri=name))
    config = SimpleNamespace(repo_url=repo_url)
    return HOOKS["on_page_markdown"](text, page, config, None)


def test_links_out_of_the_docs_lead_to_pages_to_the_repository_or_nowhere(caplog):
    assert resolved("[a](../deploy/README.md#b)") == "[a](deploy.md#b)"
    assert resolved("[a](../../README.md)", "ladder/digits.md") == "[a](../index.md)"
    assert resolved("[a](../params.yaml)") == "a"
    published = resolved("[a](../params.yaml)", repo_url="https://example.org/x/")
    assert published == "[a](https://example.org/x/blob/main/params.yaml)"
    for kept in ("[a](tuning.md#b)", "[a](https://example.org)", "![a](images/x.png)", "[a](#b)"):
        assert resolved(kept) == kept
    with caplog.at_level(logging.WARNING, "mkdocs"):
        assert resolved("[a](../nothing)") == "a"
    assert "nothing, which does not exist" in caplog.text


def test_pages_from_elsewhere_are_those_of_the_hooks():
    assert {page: source for source, page in HOOKS["PAGES"].items()} == OUTSIDE


def test_the_trees_name_every_package():
    packages = {path.parent.name for path in (ROOT / "src/striate").glob("*/__init__.py")}
    for path in (ROOT / "README.md", ROOT / "docs/architecture.md"):
        (tree,) = re.findall(r"```text\n(params\.yaml .*?)```", path.read_text(), re.S)
        assert packages <= set(re.findall(r"(\w+)/", tree)), path.name


def test_the_page_of_files_names_all_that_stages_write():
    text = (ROOT / "docs/files.md").read_text()
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        for out in [*stage["outs"], *stage.get("metrics", [])]:
            name = out if isinstance(out, str) else next(iter(out))
            assert f"`{name}" in text, name


def test_the_page_of_architecture_names_all_that_it_is_built_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        project["dependency-groups"]["dev"],
    ]
    text = (ROOT / "docs/architecture.md").read_text()
    for dependency in (name for names in lists for name in names):
        name = re.match(r"[\w.-]+", dependency)[0]
        assert name in text or name.startswith("types-"), name
