"""Reading answers: leniently, without ever evaluating anything, and never turning a doubt into a match."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meld.task.ave import AttributeValueExtraction
from meld.task.base import match_option, read_answer
from meld.task.blk import Blocking
from meld.task.cta import ColumnTypeAnnotation
from meld.task.dc import DataCleaning
from meld.task.di import Imputation
from meld.task.ed import ErrorDetection
from meld.task.el import EntityLinking
from meld.task.em import EntityMatching
from meld.task.re import RelationExtraction
from meld.task.sm import SchemaMatching
from meld.types import Prompt

TASKS = [
    EntityMatching(),
    ErrorDetection(),
    DataCleaning(),
    Imputation(),
    Blocking(),
    ColumnTypeAnnotation(),
    RelationExtraction(),
    EntityLinking(),
    SchemaMatching(),
    AttributeValueExtraction(),
]


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ('{"answer": "match"}', "match"),
        ('{"answer": "say \\"hi\\""}', 'say "hi"'),
        ('{"value": "x"}', "x"),
        ('{"reason": "alike", "answer": "match"}', "match"),
        ('Sure! {"answer": "match"} as asked', "match"),
        ('The "answer" is: {"answer": "match"}', "match"),
        ('{"answer": "a}b"} and more', "a}b"),
        ('match"}', "match"),  # the rest of an object that the prompt opened
        ('say \\"hi\\""}', 'say "hi"'),
        ('caf\\u00e9"}', "café"),
        ('match", "reason": "same name"}', "match"),
        ('match"}\n\nEntity: {"name": "x"}\n{"answer": "mismatch"}', "match"),
        ('match"', "match"),
        ('"match"}', "match"),
        ('{"answer": "mat', "mat"),  # cut off by the length limit
        ("plain text", "plain text"),
        ("first line\nsecond line", "first line"),
        ('32" tv', '32" tv'),
        ("12.50", "12.50"),  # a number stays as it is written
        ('{"answer": 12.50}', "12.50"),
        ('{"answer": 06000}', None),
        ("06000", "06000"),
        ("1" * 5000, "1" * 5000),
        ("NaN", "NaN"),
        ("true", "true"),
        ("", None),
        ("  \n ", None),
        ('"}', None),
        ('{"answer": ""}', None),
        ('{"answer": null}', None),
        ('{"answer": ["match"]}', None),
        ("{}", None),
        ("{answer: match}", None),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_read_answer(raw: str, answer: str | None) -> None:
    assert read_answer(raw) == answer


@pytest.mark.parametrize(
    "raw",
    [
        "mismatch", "MISMATCH.", "mis-match", "mis match", "non-match", "not a match", "no match", "don't match",
        "These don’t match", "They do not match", "match or mismatch", "unmatched", "matching", "cannot match",
        "neither", "", "{}", '{"answer": "mismatch"}', '{"answer": "no match"}', '{"answer": true}', "matc", "1",
        '{"answer": "mismatch", "was": "match"}', 'mismatch"}\n{"answer": "match"}',
    ],
)  # fmt: skip
def test_nothing_else_is_a_match(raw: str) -> None:
    assert EntityMatching().parse(raw) in {None, "mismatch"}
    assert SchemaMatching().parse(raw) in {None, "mismatch"}


@pytest.mark.parametrize("raw", ["match", "Match.", " 'match' ", '{"answer": "Match"}', "They match!", 'match"}'])
def test_a_match_is_read(raw: str) -> None:
    assert EntityMatching().parse(raw) == "match"
    assert SchemaMatching().parse(raw) == "match"


@pytest.mark.parametrize(("raw", "answer"), [("error", "error"), ("Correct", "correct"), ("incorrect", None)])
def test_error_detection(raw: str, answer: str | None) -> None:
    assert ErrorDetection().parse(raw) == answer
    assert ErrorDetection().parse(f"no {raw}") is None


def test_nothing_is_evaluated(tmp_path: object) -> None:
    for hostile in ("__import__('os').abort()", '{"answer": __import__("os").abort()}', "{'answer': exit()}"):
        for task in TASKS:
            task.parse(hostile)


JSONISH = st.text(alphabet='{}"\\:, \nu{}[]ansmtch0d8.e-', max_size=60)


@given(st.one_of(st.text(), JSONISH, st.sampled_from(["match", "mismatch"]).flatmap(lambda w: JSONISH.map(w.__add__))))
@example("\ud800")
@example('"\\ud800"')
@example('\\ud83d"}')
@example('{"answer": "\\udfff')
@example("\x1c")
@example('"')
@example("\\")
def test_parsing_never_raises_and_gives_text_that_can_be_stored(raw: str) -> None:
    for task in TASKS:
        answer = task.parse(raw)
        if answer is not None:
            assert answer
            assert answer == answer.strip()
            answer.encode("utf-8")
            if task.options:
                assert answer in task.options


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s.strip()))
@example("{")
@example('{"a": "b"}')
def test_what_a_model_is_taught_to_write_is_read_back(answer: str) -> None:
    taught = Prompt("", "", json_form=True).answer_text(answer)
    assert read_answer(taught) == answer.strip()
    assert read_answer('{"answer": "' + taught) == answer.strip()
    assert read_answer(json.dumps({"answer": answer})) == answer.strip()


def test_options_are_whole_words_without_denial() -> None:
    assert match_option("It is red", ("red", "dark red")) == "red"
    assert match_option("dark red", ("red", "dark red")) == "dark red"
    assert match_option("red or blue", ("red", "blue")) is None
    assert match_option(None, ("red",)) is None
    assert match_option("no", ("no", "yes")) == "no"
