"""Turtle as AFF4 writes it: the statements of an ``information.turtle`` by subject and predicate.

A statement that cannot be read costs itself: reading goes on behind the next full stop. Blank nodes and
collections are read over, and stand as nodes without a name.

Source: RDF 1.1 Turtle, W3C Recommendation 25 February 2014, section 6.5 (grammar); the turtle-to-graph
rules of section 7.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

RDF_TYPE: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
_XSD: Final = "http://www.w3.org/2001/XMLSchema#"
_MAX_STATEMENTS: Final = 4_000_000  # triples: thirty each of 130,000 files
_MAX_DEPTH: Final = 32  # of nested blank nodes and collections
_MAX_NOTES: Final = 10
# No text takes more than one pass: what may fail late is bounded, what is not bounded consumes what it saw.
_TOKEN: Final = re.compile(
    r"""[ \t\r\n]+ | \#[^\r\n]*
    | <(?P<iri>[^\x00-\x20<>"{}|^`]*)>
    | (?P<long>\"{3}(?:[^"\\]|\\.|"(?!""))*\"{3} | '{3}(?:[^'\\]|\\.|'(?!''))*'{3})
    | (?P<short>"[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*" | '[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*')
    | (?P<type>\^\^)
    | @(?P<at>[A-Za-z]+(?:-[A-Za-z0-9]+)*)
    | _:(?P<blank>[^\s,;()\[\]<>"'\#]*[^\s,;()\[\]<>"'\#.])
    | (?P<number>[+-]?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,9})?)(?![\w:])
    | (?P<mark>[.;,\[\]()])
    | (?P<prefix>[^\s:,;()\[\]<>"'\#@^.]{0,255}):
      (?P<local>(?:[^\s,;()\[\]<>"'\#.\\]|\\.|\.(?=[^\s,;()\[\]<>"'\#.]))*)
    | (?P<word>[A-Za-z]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ANY: Final = re.compile(".", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_LETTERS: Final = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_BLANK: Final = "_:"


class Literal(NamedTuple):
    """A value with the IRI of its datatype, empty: a plain string."""

    value: str
    datatype: str = ""


Term = str | Literal  # an IRI, or a literal
Statements = dict[str, dict[str, list[Term]]]  # subject, predicate, objects in their order
_Token = tuple[str, re.Match[str]]


class _Wrong(Exception):
    """A statement cannot be read."""


def parse(text: str) -> tuple[Statements, list[str]]:
    """Return the statements of a document by subject, and what could not be read."""
    reader = _Document(text)
    reader.run()
    return reader.statements, reader.notes


class _Document:
    """One pass over a document; tokens come from a generator, one is looked at ahead."""

    def __init__(self, text: str) -> None:
        self.statements: Statements = {}
        self.notes: list[str] = []
        self._text = text
        self._prefixes: dict[str, str] = {}
        self._base = ""
        self._count = 0
        self._blanks = 0
        self._damaged = 0
        self._at = 0
        self._tokens = self._scan()
        self._token: _Token | None = None

    def run(self) -> None:
        self._next()
        while self._token is not None and self._count < _MAX_STATEMENTS:
            try:
                self._statement()
            except _Wrong as why:
                self._damaged += 1
                if len(self.notes) < _MAX_NOTES:
                    line = self._text.count("\n", 0, self._at) + 1
                    self.notes.append(f"information.turtle, line {line}: {why}; the statement is left out")
                self._resume()
        if self._count >= _MAX_STATEMENTS:
            self.notes.append(f"information.turtle: statements beyond {_MAX_STATEMENTS} are left out")
        if self._damaged > _MAX_NOTES:
            self.notes.append(f"information.turtle: {self._damaged} statements cannot be read")

    def _scan(self) -> Iterator[_Token | None]:
        text, match = self._text, _TOKEN.match
        while True:
            found = match(text, self._at)
            if found is None or found.end() == self._at:
                if self._at >= len(text):
                    while True:
                        yield None
                self._at += 1  # what follows may be readable
                yield "wrong", _ANY.match(text, self._at - 1)  # type: ignore[misc]  # there is a character
                continue
            self._at = found.end()
            kind = found.lastgroup
            if kind is not None:
                yield ("name" if kind in ("prefix", "local") else kind), found

    def _next(self) -> None:
        self._token = next(self._tokens)

    def _resume(self) -> None:
        """Go on behind the next full stop."""
        while self._token is not None and not (self._token[0] == "mark" and self._token[1][0] == "."):
            self._next()
        if self._token is not None:
            self._next()

    def _mark(self) -> str:
        token = self._token
        return token[1][0] if token is not None and token[0] == "mark" else ""

    def _expect(self, mark: str) -> None:
        if self._mark() != mark:
            raise _Wrong(f"no {mark!r} where one belongs")
        self._next()

    def _statement(self) -> None:
        token = self._token
        assert token is not None  # noqa: S101  # ``run`` looked
        kind, found = token
        word = found[0].lstrip("@").lower()
        if (kind == "at" and word in ("prefix", "base")) or (kind == "word" and word in ("prefix", "base")):
            self._next()
            self._directive(word)
            if kind == "at":
                self._expect(".")
            return
        subject = self._node(0)
        if self._mark() != ".":
            self._predicates(subject, 0)
        self._expect(".")

    def _directive(self, word: str) -> None:
        prefix = ""
        if word == "prefix":
            token = self._token
            if token is None or token[0] != "name" or token[1]["local"]:
                raise _Wrong("a prefix without a name")
            prefix = token[1]["prefix"]
            self._next()
        token = self._token
        if token is None or token[0] != "iri":
            raise _Wrong("a prefix without an IRI")
        iri = self._iri(token[1]["iri"])
        self._next()
        if word == "prefix":
            self._prefixes[prefix] = iri
        else:
            self._base = iri

    def _predicates(self, subject: str, depth: int) -> None:
        while True:
            token = self._token
            if token is not None and token[0] == "word" and token[1][0] == "a":
                predicate = RDF_TYPE
                self._next()
            else:
                term = self._named()
                if term is None:
                    raise _Wrong("no predicate")
                predicate = term
            objects = self.statements.setdefault(subject, {}).setdefault(predicate, [])
            while True:
                objects.append(self._object(depth))
                self._count += 1
                if self._mark() != ",":
                    break
                if self._count >= _MAX_STATEMENTS:
                    raise _Wrong("too many objects")
                self._next()
            if self._mark() != ";":
                return
            while self._mark() == ";":
                self._next()
            if self._mark() in (".", "]"):
                return

    def _node(self, depth: int) -> str:
        term = self._named()
        if term is not None:
            return term
        token = self._token
        if token is not None and token[0] == "blank":
            self._next()
            return _BLANK + token[1]["blank"]
        mark = self._mark()
        if mark not in ("[", "(") or depth > _MAX_DEPTH:
            raise _Wrong("no subject or object")
        self._next()
        self._blanks += 1
        own = f"{_BLANK}[{self._blanks}]"
        if mark == "[":
            if self._mark() != "]":
                self._predicates(own, depth + 1)
            self._expect("]")
            return own
        while self._mark() != ")":
            self._object(depth + 1)
            self._count += 1
        self._next()
        return own

    def _object(self, depth: int) -> Term:
        token = self._token
        if token is None:
            raise _Wrong("the document ends")
        kind, found = token
        if kind in ("short", "long"):
            self._next()
            raw = found[0]
            width = 3 if kind == "long" else 1
            return Literal(_unescaped(raw[width:-width]), self._datatype())
        if kind == "number":
            self._next()
            return Literal(found[0], _XSD + ("integer" if found[0].lstrip("+-").isdigit() else "decimal"))
        if kind == "word" and found[0] in ("true", "false"):
            self._next()
            return Literal(found[0], _XSD + "boolean")
        return self._node(depth)

    def _datatype(self) -> str:
        token = self._token
        if token is None:
            return ""
        if token[0] == "at":  # a language tag
            self._next()
            return ""
        if token[0] != "type":
            return ""
        self._next()
        datatype = self._named()
        if datatype is None:
            raise _Wrong("no datatype")
        return datatype

    def _named(self) -> str | None:
        """Return the IRI that stands here, None: none does."""
        token = self._token
        if token is None:
            return None
        kind, found = token
        if kind == "iri":
            self._next()
            return self._iri(found["iri"])
        if kind != "name":
            return None
        base = self._prefixes.get(found["prefix"])
        if base is None:
            raise _Wrong(f"a prefix {found['prefix'][:40]!r} that nothing declares")
        self._next()
        local = found["local"]
        return base + (_unescaped(local) if "\\" in local else local)

    def _iri(self, raw: str) -> str:
        iri = _unescaped(raw) if "\\" in raw else raw
        if self._base and ":" not in iri.partition("/")[0]:
            return self._base + iri
        return iri


def _unescaped(raw: str) -> str:
    return _ESCAPE.sub(_character, raw) if "\\" in raw else raw


def _character(found: re.Match[str]) -> str:
    digits = found[1] or found[2]
    if digits is None:
        return _LETTERS.get(found[3], found[3])
    code = int(digits, 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
