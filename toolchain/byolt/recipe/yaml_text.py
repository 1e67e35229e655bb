"""A text in YAML to plain mappings, lists and values with the line of each, or one sentence.

The parser's events are read one by one, so that a text which nests without end, or repeats itself by aliases, is
refused before it is built. Only plain data is taken: no tags, no keys but texts, one document.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml import events as of_yaml
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from byolt.recipe.section import MOST_DEEP, MOST_VALUES, is_text
from byolt_export.errors import InputError
from byolt_export.wording import shown

MOST_BYTES = 64 * 1024
"""Size of a recipe; the largest shipped one has 4 kB."""
_MOST_DIGITS = 100
Key = tuple[str | int, ...]

# What the parser says, and what a person has to change.
_WORDS = {
    "mapping values are not allowed": "a second `key:` in one line, or one that is indented further than those beside "
    "it; put quotes round a text that holds a colon and a space",
    "could not find expected ':'": "a key without its colon: write `key: value`, with a space",
    "expected <block end>": "this line does not start in the column of those above it that belong to the same section",
    "inconsistent indentation": "this line does not start in the column of those above it",
    "bad indentation": "this line is indented otherwise than those above it",
    "'\\t' that cannot start": "a tab; indent with spaces",
    "that cannot start any token": "a text that starts with this character needs quotes round it",
    "expected ',' or ']'": "the list that begins with [ lacks a comma or its ]",
    "expected ',' or '}'": "the mapping that begins with { lacks a comma or its }",
    "but found '<stream end>'": "a list or mapping that begins with [ or { is not closed",
    "expected the node content": "a value is missing here; put quotes round a text that holds a sign of YAML",
    "unexpected end of stream": "the text that begins with a quote lacks its other quote",
    "escape character": "a backslash in double quotes starts an escape; write it in single quotes",
    "undefined alias": "*NAME stands before its &NAME",
    "alphabetic or numeric character": "a text that starts with * or & needs quotes round it",
}
_OTHERWISE = (
    "this is not YAML; write `key: value`, and put quotes round texts that hold one of : # [ ] { } , & * ! | > %"
)

_TOO_DEEP = f"more than {MOST_DEEP} levels of lists and mappings"


class Document(NamedTuple):
    """What a text holds."""

    value: Any
    """Mappings, lists, texts, numbers, booleans and None; None for an empty text."""
    lines: dict[Key, int]
    """Line, from 1, of each key and item."""


class _Fault(Exception):
    """What does not fit, and its line from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read_yaml(text: str, where: str, *, lines: bool = True) -> Document:
    """The one document of a text.

    Args:
        text: YAML 1.2.
        where: What holds the text, as faults call it.
        lines: Whether faults name the line too.

    Raises:
        InputError: It is no YAML, larger than a recipe can be, or not plain data.
    """
    try:
        if len(text) > MOST_BYTES:
            raise _Fault(1, f"more than {MOST_BYTES // 1024} KiB, which no recipe needs")
        return _Reader(text).document()
    except _Fault as fault:
        raise InputError(f"{where}{f':{fault.line}' if lines else ''}: {fault}") from fault


class _Reader:
    """Builds what the parser's events tell."""

    def __init__(self, text: str) -> None:
        self.text, self.yaml = text, YAML(typ="safe", pure=True)
        self.events: Iterator[Any] = iter(())
        self.lines: dict[Key, int] = {}
        self.anchors: dict[str, tuple[Any, Key, int] | None] = {}
        """Value, place and number of values by name; None while it is still being built."""
        self.values = 0

    def document(self) -> Document:
        line = 1
        try:
            self.events = self.yaml.parse(self.text)
            next(self.events)  # The stream's start.
            if isinstance(next(self.events), of_yaml.StreamEndEvent):
                return Document(None, {})
            value = self._node(next(self.events), (), 1)
            next(self.events)  # The document's end.
            following = next(self.events)
            if not isinstance(following, of_yaml.StreamEndEvent):
                raise _Fault(_line(following), "a second document (---) begins here; a recipe is one")
            return Document(value, self.lines)
        except _Fault:
            raise
        except ReaderError as error:
            line += self.text.count("\n", 0, error.position)
            raise _Fault(line, f"a character that is no text (U+{error.character:04X})") from error
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else line
            raise _Fault(line, _in_words(error.problem or "")) from error
        except (YAMLError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            # The parser's own slips over a damaged text, such as an escape beyond the last character there is.
            raise _Fault(line, _OTHERWISE) from error

    def _node(self, event: Any, key: Key, depth: int) -> Any:
        """What begins with an event, down to its end."""
        if isinstance(event, of_yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(event, 1)
        if depth > MOST_DEEP:
            raise _Fault(_line(event), _TOO_DEEP)
        if event.tag is not None:
            tag = shown(str(event.tag).replace("tag:yaml.org,2002:", "!!"))[1:-1]
            raise _Fault(_line(event), f"the tag {tag}: write the plain value without it")
        before = self.values
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        value: Any
        if isinstance(event, of_yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, of_yaml.SequenceStartEvent):
            value = self._list(key, depth)
        else:
            value = self._mapping(key, depth, in_braces=bool(event.flow_style))
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, key, self.values - before + 1)
        return value

    def _alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self.anchors:
            raise _Fault(_line(event), _WORDS["undefined alias"])
        anchored = self.anchors[event.anchor]
        if anchored is None:
            raise _Fault(_line(event), f"*{event.anchor} stands within its own &{event.anchor}")
        self._count(event, anchored[2])
        if depth + _levels(anchored[0]) > MOST_DEEP:
            raise _Fault(_line(event), _TOO_DEEP)
        return copy.deepcopy(anchored[0])  # An override of one of them must not change the other.

    def _count(self, event: Any, values: int) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            raise _Fault(_line(event), f"more than {MOST_VALUES:,} values up to here, which no recipe needs")

    def _list(self, key: Key, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), of_yaml.SequenceEndEvent):
            place = (*key, len(items))
            self.lines[place] = _line(event)
            items.append(self._node(event, place, depth + 1))
        return items

    def _mapping(self, key: Key, depth: int, *, in_braces: bool) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(self.events), of_yaml.MappingEndEvent):
            written = self._node(event, key, depth + 1)
            if not isinstance(written, str):
                raise _Fault(_line(event), f"a key is a text, and this is {shown(written)}")
            following = next(self.events)
            is_plain = isinstance(event, of_yaml.ScalarEvent) and event.implicit[0]
            if is_plain and written == "<<":
                merged |= self._merged(following, key, depth) | merged
                continue
            if in_braces and is_plain and ":" in written and _is_empty(following):
                name, _, value = written.partition(":")
                raise _Fault(
                    _line(event), f"YAML wants a space after the colon: {{{name}: {value}}}, in a shell within quotes"
                )
            place = (*key, written)
            if written in own:
                raise _Fault(_line(event), f"found duplicate key {shown(written)}; line {self.lines[place]} has it too")
            self.lines[place] = _line(event)
            own[written] = self._node(following, place, depth + 1)
        return merged | own

    def _merged(self, event: Any, key: Key, depth: int) -> dict[str, Any]:
        """The mappings that ``<<:`` names, the first before the others; their keys keep the lines where they stand."""
        source = self.anchors.get(event.anchor) if isinstance(event, of_yaml.AliasEvent) else None
        place = source[1] if source else (*key, "<<")
        found = self._node(event, place, depth + 1)
        mappings = found if isinstance(found, list) else [found]
        merged: dict[str, Any] = {}
        for mapping in mappings:
            if not isinstance(mapping, dict):
                raise _Fault(_line(event), f"<< takes a mapping, or a list of them, not {shown(mapping)}")
            merged = mapping | merged
        for name in merged:
            self.lines.setdefault((*key, name), self.lines.get((*place, name), _line(event)))
        return merged

    def _scalar(self, event: Any) -> Any:
        """Null, a boolean, a number or a text, as YAML 1.2 has them; what else it knows, such as dates, is a text."""
        text: str = event.value
        if not is_text(text):
            raise _Fault(_line(event), "half of a surrogate pair (\\ud800 to \\udfff), which is no character")
        tag = str(self.yaml.resolver.resolve(ScalarNode, text, event.implicit))
        build = getattr(self.yaml.constructor, f"construct_yaml_{tag.rpartition(':')[2]}", None)
        if build is None or not tag.endswith((":null", ":bool", ":int", ":float")):
            return text
        if len(text) > _MOST_DIGITS:
            raise _Fault(_line(event), f"a number of {len(text):,} characters")
        try:
            return build(ScalarNode(tag, text))
        except ValueError as error:
            raise _Fault(_line(event), f"{shown(text)} is no number") from error


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _levels(value: Any) -> int:
    """Lists and mappings within one another."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return max((1 + _levels(each) for each in inner), default=0)


def _is_empty(event: Any) -> bool:
    return isinstance(event, of_yaml.ScalarEvent) and event.implicit[0] and event.value == ""


def _in_words(problem: str) -> str:
    return next((words for said, words in _WORDS.items() if said in problem), _OTHERWISE)
