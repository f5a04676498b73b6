"""What the docs site takes from outside docs/: pages, and links to files of the repository."""

import re
from functools import partial
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Files outside docs/ that are pages of the site, too.
PAGES = {"README.md": "index.md", "deploy/README.md": "deploy.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
SOURCE = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s]+)(\))")
log = get_plugin_logger("links")


def on_files(files, config):
    """Add the pages that lie outside docs/."""
    for source, name in PAGES.items():
        text = moved((ROOT / source).read_text(), PurePosixPath(source).parent)
        if name == "index.md":
            text = f"---\nhide: [navigation]\n---\n\n{text}"  # it has a list of all pages
        files.append(File.generated(config, name, content=text))
    return files


def moved(text, folder):
    """A page's text with its relative links as seen from docs/ instead of `folder`."""
    return SOURCE.sub(lambda link: link[1] + seen_from_docs(folder / link[2]) + link[3], text)


def seen_from_docs(path):
    """A path below the repository's root, from docs/."""
    inside = normpath(path)
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"../{inside}"


def on_page_markdown(markdown, page, config, files):
    """Lead links to files outside docs/ to their pages or to the repository, if it is published."""
    return LINK.sub(partial(resolved, page=page, config=config), markdown)


def resolved(link, page, config):
    """A link that has a target on the site, or in the repository, or else its text alone."""
    path = normpath(PurePosixPath("docs", page.file.src_uri).parent / link["target"])
    if path in PAGES:
        up = "../" * page.file.src_uri.count("/")
        return f"[{link['text']}]({up}{PAGES[path]}{link['anchor'] or ''})"
    if path.startswith("docs/"):
        return link[0]
    if not (ROOT / path).exists():
        log.warning(f"{page.file.src_uri} links to {path}, which does not exist")
    if config.repo_url:
        address = f"{config.repo_url.rstrip('/')}/blob/main/{path}{link['anchor'] or ''}"
        return f"[{link['text']}]({address})"
    return link["text"]
