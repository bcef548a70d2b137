"""Links and paths of code in the pages for readers lead somewhere."""

from __future__ import annotations

import re

from tests.support.checkout import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *(ROOT / "docs").glob("*.md"),
]
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")
CODE = re.compile(r"(?<![\w/.])(?:app|benchmarks|models|operators|tests)/(?:[\w/]+\.py|[\w/]*(?=`))")


def test_every_relative_link_and_every_path_of_code_exists():
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    linked = [
        (page.name, target, page.parent / target) for page, text in texts.items() for target in LINK.findall(text)
    ]
    named = [(page.name, path, ROOT / path) for page, text in texts.items() for path in CODE.findall(text)]
    assert len(linked) > 20 and len(named) > 20
    assert [(page, target) for page, target, path in linked + named if not path.exists()] == []


def test_every_link_to_a_heading_finds_it():
    def anchors(text: str) -> set[str]:
        headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    found = [
        (page, (page.parent / target).resolve() if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(found) > 3
    assert [(page.name, anchor) for page, to, anchor in found if anchor not in anchors(to.read_text())] == []
