"""Which places of a prompt say a subject's words: whole words, in any form of the same letters, in either number."""

import unicodedata

import pytest

from unigen.encoders.keywords import other_numbers, plurals, spans


def said(prompt: str, *subjects: str) -> list[str]:
    return [prompt[start:stop] for start, stop in spans(prompt, subjects)]


@pytest.mark.parametrize(
    ("prompt", "subject", "found"),
    [
        ("two pots on a stove", "pot", ["pots"]),
        ("a pot on a stove", "pots", ["pot"]),
        ("three boxes", "box", ["boxes"]),
        ("a berry", "berries", ["berry"]),
        ("toys", "toy", ["toys"]),
        ("tomatoes and photos", "tomato", ["tomatoes"]),
        ("a teddy-bear", "teddy bear", ["teddy-bear"]),
        ("a teddy bear", "teddy-bear", ["teddy bear"]),
        ("a teddy \t bear", "teddy bear", ["teddy \t bear"]),
        ("a teddy\u2011bear", "teddy bear", ["teddy\u2011bear"]),  # a hyphen that does not break
        ("teddy-bears", "Teddy  Bear", ["teddy-bears"]),
        ("a CAT", "cat", ["CAT"]),
        ("STRASSE", "stra\u00dfe", ["STRASSE"]),
        ("the dog's bowl, a dog.", "dog", ["dog", "dog"]),
        ("\uff43\uff41\uff54", "cat", ["\uff43\uff41\uff54"]),  # full width
        ("a cat and cats", "cat", ["cat"]),  # as it is, if it is there
    ],
)
def test_what_is_found(prompt, subject, found):
    assert said(prompt, subject) == found


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a category, concatenated", "cat"),
        ("teapots", "pot"),
        ("to be or not", "bees"),
        ("glas", "glass"),
        ("a bu", "bus"),
        ("teddy, bear", "teddy bear"),
        ("teddybear", "teddy bear"),
        ("bears teddy", "teddy bear"),
        ("cafe\u0301", "cafe"),  # a mark is of its letter's word, however it is composed
        ("caf\u00e9", "cafe"),
        ("a dog", "-"),
        ("a dog", ""),
        ("", "dog"),
    ],
)
def test_what_is_not(prompt, subject):
    assert said(prompt, subject) == []


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_how_letters_are_composed_makes_no_difference(form):
    prompt, subject = "un caf\u00e9 \u00e0 Z\u00fcrich", "z\u00fcrich"
    composed = unicodedata.normalize(form, prompt)
    for other in ("NFC", "NFD"):
        (found,) = said(composed, unicodedata.normalize(other, subject))
        assert found == composed[composed.index("Z") :]


def test_several_subjects_are_found_each():
    assert said("a cat, a dog and a cat", "dog", "cat") == ["dog", "cat", "cat"]


def test_ascii_is_read_as_any_other_text():
    """The short way for ASCII gives the same words: the same text with one other letter behind it goes the long one."""
    prompt = "A Teddy-Bear, 2 cats + c+t (x_1); tab\there - the end"
    for subject in ("teddy bear", "cat", "c+t", "x_1", "tab here", "here the", "2", "nothing"):
        assert said(prompt, subject) == said(f"{prompt} \u00e9", subject), subject
    assert said(prompt, "teddy bear") and not said(prompt, "nothing"), "negative control"


def test_the_regular_plurals():
    words = {"pot": ["pots"], "box": ["boxes"], "dish": ["dishes"], "berry": ["berries"], "toy": ["toys"], "ox": []}
    assert {word: plurals(word) for word in words} == words
    assert "bee" in other_numbers("bees") and "be" not in other_numbers("bees")
