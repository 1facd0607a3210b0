"""A hook of MkDocs: documents outside docs/ are pages of the site too, and links mean there what they mean in the repository.

A link from one document to another becomes one between their pages; any other file that a page links to (a plot, a result, a
script) is copied into the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages of the site and the documents that they are.
PAGES = {
    "index.md": "README.md",
    "format.md": "FORMAT.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "recipes.md": "recipes/README.md",
    "examples.md": "examples/README.md",
    "conformance.md": "spec/README.md",
}
_ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#\s])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents, and whatever else pages link to."""
    for page, document in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / document)))
    for file in list(files.documentation_pages()):
        for target in _LINK.findall(file.content_string):
            found = _in_site(file.src_uri, target)
            if found is not None and files.get_file_from_path(found) is None and (_ROOT / found).is_file():
                files.append(File.generated(config, found, abs_src_path=str(_ROOT / found)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the site; what leads nowhere stays, and MkDocs reports it."""
    here = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        found = _in_site(here, match[1])
        if found is None:
            return match[1]
        return posixpath.relpath(found, posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def _in_site(page: str, target: str) -> str | None:
    """Where a link of a page leads in the site; None if it leads out of it."""
    if re.match(r"[a-z]+:|/", target):
        return None
    here = PAGES.get(page, f"docs/{page}")
    found = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    of_document = {document: name for name, document in PAGES.items()}
    return of_document.get(found, found.removeprefix("docs/"))
