"""The page of ``gsd-inspect --html``: one HTML file that shows a ``.gsd`` in a browser, from disk and without a network.

Its sources are ``web/`` and the JavaScript reader of ``spec/js``, which an installed package has as ``web/reader``. They are ES
modules; a page from disk may load none, so they become one script here. Everything that comes from the file is either base64, or
put in by that script as text; the page's content security policy allows this one script and nothing else, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gsdata_tools.printing import printable
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    from gsdata.file import GsdFile

MAX_FILE = 128 * 2**20
"""Bytes of the largest file that a page is made of: it is a third larger, and browsers hold it in memory as text first."""

_WEB = Path(__file__).parent / "web"
_READERS = (_WEB / "reader", Path(__file__).parents[2] / "spec" / "js")  # installed; a checkout
_IMPORT = re.compile(r'^import \{([^}]*)\} from "[./\w-]*?/?([\w-]+\.mjs)";$', re.MULTILINE)
_LIST = re.compile(r"^export \{([^}]*)\};$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:class|const|function|var) (\w+))", re.MULTILINE)


def page_of(file: GsdFile, name: str) -> bytes:
    """The page of an open file, in UTF-8; ``name`` is what it calls the file, any text.

    Raises:
        UsageError: the file is larger than ``MAX_FILE``; it is not read then.
    """
    size = file.byte_table().total
    if size > MAX_FILE:
        most = f"{size:,} bytes, but a page holds at most {MAX_FILE:,}"
        raise UsageError(f"{printable(name)}: {most}; GsdFile.subset makes a smaller file")
    return page(file.to_bytes(), name)


def page(data: bytes, name: str) -> bytes:
    """The page of the bytes of a ``.gsd``, in UTF-8."""
    script, style = bundle(), _source("page.css")
    parts = {
        "NAME": html.escape(printable(name)),
        "SHA256": hashlib.sha256(data).hexdigest(),
        "SCRIPT_HASH": _hash(script),
        "STYLE_HASH": _hash(style),
        "STYLE": style,
        "SCRIPT": script,
        "FILE": base64.b64encode(data).decode(),
    }
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: parts[match[1]], _source("page.html")).encode()


def bundle(first: str = "main.mjs") -> str:
    """The modules that ``first`` imports, directly or not, and then itself, as one classic script."""
    done: dict[str, str] = {}
    _add(first, done)
    return "\n".join(['"use strict";', "const modules = {};", *done.values()])


def _add(name: str, done: dict[str, str]) -> None:
    text = _source(name)
    for match in _IMPORT.finditer(text):
        if match[2] not in done:
            _add(match[2], done)
    exported = [*_EXPORT.findall(text), *(word.strip() for names in _LIST.findall(text) for word in names.split(","))]
    text = _IMPORT.sub(lambda match: f'const {{{match[1]}}} = modules["{match[2]}"];', text)
    text = _EXPORT.sub("", _LIST.sub("", text))
    if re.search(r"^(import|export)\b|</script|<!--", text, re.MULTILINE | re.IGNORECASE):
        raise ValueError(
            f"{name}: an import or export of a form that is not known here, or text that would end a script"
        )
    done[name] = f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {", ".join(exported)} }};\n}})();'


def _source(name: str) -> str:
    folders = (_WEB, *(folder / part for folder in _READERS for part in ("", "vendor")))
    path = next((folder / name for folder in folders if (folder / name).is_file()), _WEB / name)
    return path.read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
