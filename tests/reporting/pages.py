"""What the tests of pages share: a parser that fails on a tag left open, and the rule that a page needs nothing."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags in order with their attributes, the text, and the exact values of ``<data>`` with what is read of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.values: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "data":
            self.values.append((next(a["value"] or "" for t, a in reversed(self.tags) if t == "data"), data))

    @property
    def sections(self) -> set[str]:
        return {attributes["id"] or "" for tag, attributes in self.tags if tag == "section" and "id" in attributes}

    @property
    def charts(self) -> dict[str, str]:
        """The text in each chart's drawing, by what stands for it where it is not seen."""
        found = {}
        for _, attributes in self.tags:
            head, _, content = (attributes.get("src") or "").partition(",")
            if head == "data:image/svg+xml;base64":
                drawing = ElementTree.fromstring(base64.b64decode(content))
                found[attributes["alt"] or ""] = " ".join(drawing.itertext())
        return found

    def stands_alone(self) -> None:
        assert not re.search(r"https?:|<script|url\(", self.html)
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in self.tags:
            assert not any(name.startswith("on") for name in attributes), attributes
            for name in {"src", "href", "srcset", "action"} & attributes.keys():
                address = attributes[name] or ""
                assert re.match(r"data:image/(png|svg\+xml);base64,", address), (tag, address[:80])
