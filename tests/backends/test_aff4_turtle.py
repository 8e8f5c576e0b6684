"""Turtle: the grammar as AFF4 writers use it; nothing costs more than one pass or more than its statement."""

from __future__ import annotations

import time

import pytest

from imgfs.backends._aff4_turtle import RDF_TYPE, Literal, parse

XSD = "http://www.w3.org/2001/XMLSchema#"
HEAD = "@prefix : <v> . @prefix x: <http://x/> .\n"


def objects(text: str) -> list[object]:
    """Return the objects of the one statement about ``x:s``."""
    statements, notes = parse(f"{HEAD}x:s x:p {text} .")
    assert not notes
    return list(statements["http://x/s"]["http://x/p"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<http://i>", "http://i"),
        ("<http://i/\\u0041\\U00000042>", "http://i/AB"),
        ("x:o", "http://x/o"),
        ("x:a.b-c", "http://x/a.b-c"),
        ("x:a\\,b", "http://x/a,b"),
        (":", "v"),
        ("_:b1", "_:b1"),
        ('"plain"', Literal("plain")),
        ("'single'", Literal("single")),
        ('"a\\"b\\\\c\\n\\u00e9"', Literal('a"b\\c\n\u00e9')),
        ('"""two\n"lines" """', Literal('two\n"lines" ')),
        ("'''it's'''", Literal("it's")),
        ('"tagged"@en-GB', Literal("tagged")),
        ('"typed"^^x:T', Literal("typed", "http://x/T")),
        ('"typed"^^<http://T>', Literal("typed", "http://T")),
        ("42", Literal("42", XSD + "integer")),
        ("-4.25", Literal("-4.25", XSD + "decimal")),
        ("true", Literal("true", XSD + "boolean")),
        ('""', Literal("")),
        ("[]", "_:[1]"),
        ("[ x:q 1 ; x:r 2, 3 ; ]", "_:[1]"),
        ("( 1 x:o ( ) )", "_:[1]"),
    ],
)
def test_terms(text, wanted) -> None:
    assert objects(text) == [wanted]


def test_statements() -> None:
    text = """# a comment
    @base <http://base/> .
    PREFIX x: <http://x/>
    <s> a x:T, x:U ; x:p 1 ;; x:q "a # no comment" . # another
    <s> x:p 2.
    x:t x:p x:o ."""
    statements, notes = parse(text)
    assert not notes
    assert statements["http://base/s"][RDF_TYPE] == ["http://x/T", "http://x/U"]
    assert [term.value for term in statements["http://base/s"]["http://x/p"]] == ["1", "2"]  # type: ignore[union-attr]
    assert statements["http://x/t"] == {"http://x/p": ["http://x/o"]}


@pytest.mark.parametrize(
    "bad",
    ["x:a x:b", 'x:a "no predicate" 1', "x:a x:p nobody:knows", "x:a x:p ^^ 1", "x:a x:p )", "x:a x:p \x00"],
)
def test_a_statement_that_cannot_be_read_costs_itself(bad) -> None:
    statements, notes = parse(f"{HEAD}x:s x:p 1 .\n{bad} .\nx:t x:p 2 .")
    assert "http://x/s" in statements
    assert "http://x/t" in statements
    assert any("line 3" in note or "line 4" in note for note in notes)


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '"""',
        "'''",
        '"""a"',
        "[",
        "(",
        "[ x:p ",
        "<",
        "a.",
        "\\",
        ":",
        ".",
        "a:.",
        "_:.",
        "1.",
        "1",
        "-",
        "x:",
        "^^",
        "@",
        "#",
    ],
)
def test_no_text_takes_long(text) -> None:
    begin = time.process_time()
    parse(HEAD + text * 50_000)
    parse(HEAD + "x:s x:p " + text * 50_000 + " x")
    assert time.process_time() - begin < 8
