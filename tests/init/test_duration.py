"""focal_plugin/init/duration.py: times on the command line."""

import pytest

from focal_plugin.init.duration import duration_argument, parse_duration


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30m", 30), ("2h", 120), ("1h30m", 90), ("1.5h", 90), ("2d", 2880), (" 1D1h1m ", 1501)],
)
def test_days_hours_and_minutes_are_read(text, minutes):
    assert parse_duration(text) == 60 * minutes


@pytest.mark.parametrize("text", ["", "2", "m", "30m2h", "0m", "-2h", "1h 30m", "nan", "99999d"])
def test_any_other_text_is_an_error_with_the_form(text):
    with pytest.raises(ValueError, match=r"30m, 2h or 1h30m.*, got "):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [1, 60, 61, 3600, 5400, 90001])
def test_the_text_of_a_duration_is_read_as_at_least_as_long(seconds):
    assert seconds <= parse_duration(duration_argument(seconds)) < seconds + 60
