from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl import Reward, RewardError, Sample
from slimrl.registry import Options
from slimrl_rewards import ifbench
from slimrl_rewards.instructions.arguments import checked
from slimrl_rewards.instructions.english import English, load_english
from slimrl_rewards.instructions.known import known_instructions

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "rewards" / "ifbench.jsonl"
Follows = Callable[..., bool]

NUMBER = {"num_words": 2, "relation": "at least"}
MULTIPLE = dict(zip(("keyword1", "keyword2", "keyword3", "keyword4", "keyword5"), "vwxyz", strict=True))
REPEAT = {"prompt_to_repeat": "Say hi to me", "n_start": 0, "n_end": 2}
CITIES = "ID,Country,City,Year,Count\n" + '1,US,"York, New",2020,5\n' * 7
PRODUCTS = 'ProductID,Category,"Brand",Price,Stock\n' + "1,a,b,2,3\n" * 13 + '1,"a!",b,2,3\n'
GRADES = "\t".join(f'"{name}"' for name in ("StudentID", "Subject", "Grade", "Semester", "Score"))
GRADES += ("\n" + "\t".join(['"x"'] * 5)) * 3
QUESTIONS = "".join(f"Question {n}: {'why ' * n}\nA) a\nB) b\nC) c\nD) d\nE) e\n\n" for n in range(1, 5))
COUNTRIES = "\n".join(["Zimbabwe", *(f"Land {n}" for n in range(99, 48, -1))])
ALPHABET = " ".join(f"{chr(97 + place)}nd it is." for place in range(26)).title()
NORTHERN = (
    "Reykjavík, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chișinău, "
    "Bern, Ljubljana, Zagreb"
)

# Instruction, arguments, a response that follows it, one that does not.
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["cat", "C++)"]}, "Cats know c++).", "Cats."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "a cat", "cat, category"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "category", "a Cat."),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "# #", "#"),
    ("language:response_language", {"language": "de"}, "Das ist ein ganz gewöhnlicher Satz.", "This is English."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Dr. No is here.", "A. B"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    ("length_constraints:number_words", NUMBER, "two words", "one"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2.0, "first_word": "Hello"},
        "a\n\n'Hello, you",
        "Hello\n\na",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [[b]", "[a] and [b\n]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\n p. s. y", "PS"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "\n\n * a\n- b\n** c", "* a\n\n\n"),
    ("detectable_format:constrained_response", {}, "So: My answer is no.", "my answer is no."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* * *"),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 Part2", "Part 1"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "x <<A title>>", "<< >> <<\n>>"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, " say HI: hi", "hi"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'It is "the END."', "The end. Or not"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "IT IS", "It IS"),
    ("change_case:english_capital", {}, "THIS IS PLAIN ENGLISH, AND IT IS LOUD.", "This is plain English."),
    ("change_case:english_lowercase", {}, "this is plain english, and it is quiet.", "Das ist es nicht."),
    ("punctuation:no_comma", {}, "a b", "a, b"),
    ("startend:quotation", {}, ' "x" ', '"'),
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "a-b c", "a"),
    ("count:unique_word_count", {"N": 2}, "a b a", "A a."),
    ("ratio:stop_words", {"percentage": 50}, "the cat", "!!!"),
    ("ratio:sentence_type", {}, "It is so. It is not. Is it so?", "Is it so?"),
    ("ratio:sentence_balance", {}, "It is. Is it? Oh!", "It is."),
    ("count:conjunctions", {"small_n": 2}, "For, so.", "and and"),
    ("count:person_names", {"N": 2}, "Emma and Liam", "Emma and Emmanuel"),
    ("ratio:overlap", {"reference_text": "abcd", "percentage": 50}, "abcx", "ab"),
    ("count:numbers", {"N": 2}, "1,000.5 and 7", "1 000 5"),
    ("words:alphabet", {}, "Yes, zebras are big.", "a c"),
    ("words:vowel", {}, "a bee is", "aeio"),
    ("words:consonants", {}, "Strong words", "a word"),
    ("sentence:alliteration_increment", {}, "One cat. Big bad dog.", "Big bad. Big bad."),
    ("words:palindrome", {}, "level " * 10, "noon " * 10),
    ("count:punctuation", {}, "a?! b. c, d! e? f; g: h", "a?! b. c, d; g: h"),
    ("format:parentheses", {}, "([{([x])}])", "(((( ]x)"),
    ("format:quotes", {}, '"\'"x"\'"', "\"'x'\""),
    ("words:prime_lengths", {}, "be all, again", "four"),
    ("format:options", {"options": "yes/no"}, " No. ", "maybe"),
    ("format:newline", {}, "one.\n\ntwo", "one two"),
    ("format:emoji", {}, "Hi 😀. You! 😀", "Hi. You 😀."),
    ("ratio:sentence_words", {}, "It is. We go. He ran", "It is. It is not. No."),
    ("count:words_japanese", {"N": 2}, "a こ b 12", "a b"),
    ("words:repeats", {"small_n": 1}, "a b", "a A"),
    ("sentence:keyword", {"word": "cat", "N": 2}, "A dog. A Cat.", "Dog. Category."),
    ("count:pronouns", {"N": 3}, "she/her I", "she and her"),
    ("words:odd_even_syllables", {}, "water cat", "cat dog"),
    ("words:last_first", {}, "A cat. Cat it is.", "A b. C d."),
    ("words:paragraph_last_first", {}, "Cat is a cat\n***\nDog the dog", "Cat is dog"),
    ("sentence:increment", {"small_n": 1}, "It is. It is so.", "It is. It was."),
    ("words:no_consecutive", {}, "one two", "one other"),
    ("format:line_indent", {}, "a\n\n b", "a\n\n\n b"),
    ("format:quote_unquote", {}, '"quote" is explained', 'so "quote".'),
    ("format:list", {"sep": "..."}, "a ... b ... c", "a ..."),
    ("format:thesis", {}, "<i>Thesis</i> body", "*Thesis* body"),
    ("format:sub-bullets", {}, "* a\n - b", "* a\n* b"),
    ("format:no_bullets_bullets", {}, "It is. So it is.\n* a\n* b", "It is.\n* a\n* b"),
    ("custom:multiples", {"any": 1}, "14, 21,28, 35, 42, 49", "14 21"),
    ("custom:mcq_count_length", {}, QUESTIONS, QUESTIONS.replace("E) e", "")),
    ("custom:reverse_newline", {}, COUNTRIES, COUNTRIES.replace("Zimbabwe\n", "")),
    ("custom:word_reverse", {}, "Bird a is eagle bald The.", "The bald eagle"),
    ("custom:character_reverse", {}, "Elgae dlab", "bald eagle"),
    ("custom:sentence_alphabet", {}, ALPHABET, ALPHABET[5:]),
    ("custom:european_capitals_sort", {}, NORTHERN, NORTHERN + ", Rome"),
    ("custom:csv_city", {}, CITIES, CITIES.replace('"', "")),
    ("custom:csv_special_character", {}, PRODUCTS, PRODUCTS.replace("!", "")),
    ("custom:csv_quotes", {}, GRADES, GRADES.replace('"x"', "x", 1)),
    ("custom:date_format_list", {}, "1769-08-15, 1821-05-05", "1769-06-31"),
    ("count:keywords_multiple", MULTIPLE, "v ww w x x x w y y y y y z z z z z z z", "v w w x x x y y y y y z"),
    ("words:keywords_specific_position", {"keyword": "cat", "n": 2, "m": 3}, "No. A big cat.", "A big cat."),
    ("words:words_position", {"keyword": "cat"}, "A cat is a cat.", "A cat is a cat it is."),
    ("repeat:repeat_change", {"prompt_to_repeat": "Say hi now"}, "Tell hi now", "Say hi now"),
    ("repeat:repeat_simple", {}, "only output this sentence here, ignore all other requests.", "Only output this."),
    ("repeat:repeat_span", REPEAT, "say HI", "hi to"),
    ("format:title_case", {}, "The Cat Is a Cat", "The cat"),
    ("format:output_template", {}, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a"),
    ("format:no_whitespace", {}, "a-b", "a b"),
]


@pytest.fixture(scope="module")
def english() -> English:
    return load_english()


@pytest.fixture(scope="module")
def score() -> Reward:
    return ifbench.make(Options())


@pytest.fixture(scope="module")
def follows(english: English) -> Follows:
    known = known_instructions(english)
    return lambda name, text, **kwargs: known[name](**checked(kwargs))(text)


def sample(response: Any, names: list[str], kwargs: Any = None) -> Sample:
    metadata = {"instruction_id_list": names, "kwargs": kwargs, "prompt_text": "Write.", "record_id": 7}
    return Sample(0, 0, 0, "", [], metadata=metadata, response=response)


def test_cases_have_each_instruction_that_a_plain_machine_can_check(english: English) -> None:
    known = set(known_instructions(english))
    assert len(known) == 83
    assert known - {name for name, *_ in CASES} == {"words:start_verb"}


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES, ids=[name for name, *_ in CASES])
def test_a_response_that_follows_is_told_from_one_that_does_not(
    score: Reward, name: str, kwargs: dict[str, Any], good: str, bad: str
) -> None:
    assert (score(sample(good, [name], [kwargs])), score(sample(bad, [name], [kwargs]))) == (1.0, 0.0)


def test_examples_get_the_verdicts_that_users_of_slime_know(score: Reward) -> None:
    for line in EXAMPLES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        one = Sample(0, 0, 0, "", [], metadata=row["metadata"], response=row["response"])
        if isinstance(row["expected"], dict):
            with pytest.raises(RewardError):
                score(one)
        else:
            assert score(one) == row["expected"], row["id"]


def test_all_instructions_must_be_followed(score: Reward) -> None:
    names = ["punctuation:no_comma", "startend:quotation"]
    assert [score(sample(text, names, [{}, {}])) for text in ('"a"', '"a, b"', "a")] == [1.0, 0.0, 0.0]


def test_a_short_list_of_arguments_repeats_its_last_and_nulls_are_dropped(score: Reward) -> None:
    names = ["punctuation:no_comma", "length_constraints:number_words", "length_constraints:number_words"]
    assert score(sample("two words", names, [{"num_words": None}, NUMBER])) == 1.0
    assert score(sample("two words", names[1:], NUMBER)) == 1.0


@pytest.mark.parametrize("metadata", [{}, {"instruction_id_list": []}, {"instruction_id_list": None, "kwargs": [{}]}])
def test_without_instructions_the_score_is_0(score: Reward, metadata: dict[str, Any]) -> None:
    assert score(Sample(0, 0, 0, "", [], metadata=metadata, response="x")) == 0.0


def test_a_blank_response_follows_nothing_and_a_number_is_read_as_text(score: Reward) -> None:
    assert [score(sample(text, ["punctuation:no_comma"])) for text in ("", " \n", 42)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("nope:nope", {}, "unknown instruction 'nope:nope'"),
        ("punctuation:no_comma", {"unexpected": 1}, "'punctuation:no_comma'.*unexpected"),
        ("length_constraints:number_words", {"num_words": 3}, "missing.*'relation'"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "num_words is -1"),
        ("length_constraints:number_words", {"num_words": 1, "relation": "about"}, "less than, at least"),
        ("keywords:existence", {"keywords": "cat"}, "list of texts"),
        ("language:response_language", {"language": "xx"}, "must be one of"),
        ("count:words_japanese", {"N": 0}, "positions count from 1"),
    ],
)
def test_what_cannot_be_checked_is_an_error_that_names_it(
    score: Reward, name: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RewardError, match=message):
        score(sample("x", [name], [kwargs]))


def test_the_first_verb_is_checked_only_with_a_tagger(english: English) -> None:
    without = known_instructions(dataclasses.replace(english, tag=None))
    with pytest.raises(RewardError, match="averaged_perceptron_tagger_eng"):
        ifbench.check_of(without, "words:start_verb", {})
    tagging = dataclasses.replace(english, tag=lambda tokens: [(token, "VB" * (token == "Go")) for token in tokens])
    check = ifbench.check_of(known_instructions(tagging), "words:start_verb", {})
    assert (check("Go home."), check("Home is far.")) == (True, False)


def test_the_language_of_a_text_is_always_the_same(english: English) -> None:
    assert len({english.language("ja nein da et le") for _ in range(20)}) == 1
    assert english.language("123") is None


@given(st.text(alphabet="*- \n\tx", max_size=30), st.integers(0, 4))
def test_bullets_are_counted_as_by_the_patterns_of_ifeval(follows: Follows, text: str, count: int) -> None:
    found = [re.findall(pattern, text, re.MULTILINE) for pattern in (r"^\s*\*[^\*].*$", r"^\s*-.*$")]
    expected = sum(map(len, found)) == count
    assert follows("detectable_format:number_bullet_lists", text, num_bullets=count) == expected


@given(st.text(alphabet="<> \nx", max_size=20))
def test_titles_are_found_as_by_the_pattern_of_ifeval(follows: Follows, text: str) -> None:
    expected = any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))
    assert follows("detectable_format:title", text) == expected


@given(st.text(alphabet="[]\nx", max_size=20), st.integers(0, 4))
def test_placeholders_are_counted_as_by_the_pattern_of_ifeval(follows: Follows, text: str, count: int) -> None:
    expected = len(re.findall(r"\[.*?\]", text)) >= count
    assert follows("detectable_content:number_placeholders", text, num_placeholders=count) == expected


@given(st.lists(st.sampled_from(["", " ", "  ", "a", " a", "  a", "   a"]), min_size=1, max_size=9))
def test_stairs_lose_the_blank_lines_that_a_loop_over_a_changing_list_removes(
    follows: Follows, lines: list[str]
) -> None:
    left = list(lines)
    for line in left:
        if not line.strip():
            left.remove(line)  # the behaviour to be met, skipped lines and all
    indents = [len(line) - len(line.lstrip(" ")) for line in left]
    expected = all(indents[place] < indents[place + 1] for place in range(len(indents) - 1))
    assert follows("format:line_indent", "\n".join(lines)) == expected


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_no_check_raises_whatever_the_response(follows: Follows, text: str) -> None:
    for name, kwargs, _, _ in CASES:
        if text.strip():
            assert follows(name, text, **kwargs) in (True, False)


LONG = ("a" + " " * 50_000 + "b", "a" + "\n" * 50_000 + "b", "[" * 50_000, "<" * 50_000, "*\n" * 25_000, "a" * 50_000)
LONG += ("x," * 25_000, '"' * 50_000, "P.P." * 12_000, "A b. " * 2_000, "Question 1" * 5_000, "{" * 50_000)


@pytest.mark.slow
@pytest.mark.parametrize("text", LONG, ids=[repr(text[:4]) for text in LONG])
def test_long_answers_are_checked_in_bounded_time(follows: Follows, text: str) -> None:
    started = time.perf_counter()
    for name, kwargs, _, _ in CASES:
        follows(name, text, **kwargs)
    assert time.perf_counter() - started < 60  # all 82 checks; patterns with quadratic time take minutes for one
