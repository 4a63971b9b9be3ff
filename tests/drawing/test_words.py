import pytest

from sslgraph.drawing.words import amount, number, short
from sslgraph.schedules import Learned, Schedule


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (512, "512"),
        (999, "999"),
        (1000, "1.00 k"),
        (9_995, "10.0 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (23_508_032, "23.5 M"),
        (1_130_000_000, "1.13 G"),
        (2_000_000_000_000, "2000 G"),
    ],
)
def test_amounts_have_three_digits(count: int, text: str) -> None:
    assert amount(count) == text


def test_a_schedule_is_shown_by_its_values() -> None:
    assert number(Schedule.model_validate({"cosine": [0.996, 1.0]})) == "0.996 -> 1"
    up_and_down = {"linear": [0, 2], "over": "5%", "then": {"cosine": [2, 0.5]}}
    assert number(Schedule.model_validate(up_and_down)) == "0 -> 2 -> 0.5"
    assert number(Learned(learned=0.07)) == "learned, from 0.07"
    assert number(1.0) == "1"


def test_short_texts_are_one_line_of_printable_characters() -> None:
    assert short("a\tb\n c\x00\u2028d") == "a b c d"
    assert short("0123456789", longest=9) == "012...789"
    assert short("0123456789", longest=10) == "0123456789"
