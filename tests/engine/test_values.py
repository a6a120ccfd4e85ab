"""Types of flags: numbers are read exactly, bounds hold, whatever is typed ends in a value or in a ValueError."""
import math
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.options.types import (
    LARGEST,
    compute_step_size,
    gpu_ids,
    number,
    parse_fraction,
    plain_text,
    run_name,
    share_of_eps,
    target,
)
from engine.records.naming import format_radius

settings.register_profile("exact", deadline=None, derandomize=True, database=None, max_examples=200,
                          suppress_health_check=[HealthCheck.too_slow])
often = settings(settings.get_profile("exact"))
naturals = st.integers(1, 10**6)
TYPES = [number(float), number(float, above=0), number(int, low=1, high=9), share_of_eps, plain_text, run_name, gpu_ids,
         target]


@given(st.integers(-10**9, 10**9), naturals)
@often
def test_a_quotient_of_integers_is_read_exactly_and_rounded_once(numerator, denominator):
    assert parse_fraction(f"{numerator}/{denominator}") == Fraction(numerator, denominator)
    assert number(float)(f"{numerator}/{denominator}") == numerator / denominator  # Python rounds it correctly


@given(st.decimals(-10**6, 10**6, places=6), naturals)
@often
def test_decimals_are_exact_alone_and_in_a_quotient(decimal, denominator):
    assert parse_fraction(str(decimal)) == Fraction(decimal)
    assert parse_fraction(f"{decimal}/{denominator}") == Fraction(decimal) / denominator
    assert number(float)(str(decimal)) == float(decimal)


@given(st.floats(-1e17, 1e17).filter(lambda value: value == 0 or abs(value) > 1e-300))
@often
def test_what_python_writes_is_read_back(value):
    assert number(float)(repr(value)) == value


@given(st.integers(-10**20, 10**20), st.integers(0, 25))
@often
def test_whole_numbers_stay_exact_in_every_notation(value, zeros):
    if abs(value * 10**zeros) > LARGEST:
        with pytest.raises(ValueError, match="out of bounds: at most 1e"):
            number(int)(f"{value}e{zeros}")
    else:
        read = number(int)(f"{value}e{zeros}")
        assert read == value * 10**zeros and type(read) is int


@given(st.text(max_size=30) | st.text("0123456789./e+-_ eps", max_size=12))
@settings(often, max_examples=1000)
def test_garbage_is_a_value_error_and_nothing_else(text):
    for kind in TYPES:
        try:
            value = kind(text)
        except ValueError:
            continue
        if isinstance(kind, number):
            assert math.isfinite(value) and abs(value) <= LARGEST
            assert kind.low <= value <= kind.high and value > kind.above


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1/1e99999999", "1e9_9_9_9_9_9_9", "eps/1e99999999",
                                  "1" * 5000, "1e" + "9" * 5000])
def test_numbers_that_would_fill_the_memory_are_refused_at_once(text):
    for kind in (number(float), number(int), share_of_eps):
        with pytest.raises(ValueError):
            kind(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "infinity", "", " ", "x", "1/", "/1", "1/0", "1/2/3", "0x10"])
def test_what_is_no_number(text):
    for kind in (int, float):
        with pytest.raises(ValueError, match="is not a number .write 0.01, 1e-4, 30e3 or 4/255."):
            number(kind)(text)


@given(st.fractions(-3, 3, max_denominator=255), st.sampled_from([-2, -0.25, 0, 0.5, 1]), st.sampled_from([0, 0.5, 1]))
@often
def test_bounds_hold(value, low, width):
    text = f"{value.numerator}/{value.denominator}"
    for kind, inside in [(number(float, low=low), value >= low), (number(float, high=low), value <= low),
                         (number(float, above=low), value > low),
                         (number(float, low=low, high=low + width), low <= value <= low + width),
                         (number(float, above=low, high=low + width), low < value <= low + width)]:
        if inside:
            assert kind(text) == float(value)
        else:
            with pytest.raises(ValueError) as error:
                kind(text)
            assert str(error.value) == f"{text} is out of bounds: {kind.bounds}"


@pytest.mark.parametrize(("bounds", "words"), [
    ({}, ""), ({"low": 1}, "1 or more"), ({"low": 0, "high": 1}, "0 to 1"), ({"high": 9}, "at most 9"),
    ({"above": 0}, "above 0"), ({"above": 0, "high": 1}, "above 0, at most 1"),
])
def test_bounds_are_said_in_words(bounds, words):
    assert number(float, **bounds).bounds == words


def test_a_number_that_a_float_rounds_out_of_its_bounds_is_refused():
    with pytest.raises(ValueError, match="1e-400 is out of bounds once rounded to a float: above 0"):
        number(float, above=0)("1e-400")
    assert number(float, low=0)("1e-400") == 0


@given(st.sampled_from([Fraction(quarters, 4) for quarters in range(1, 32)] + [Fraction(k) for k in range(8, 256)]))
@often
def test_grey_levels_come_back_as_they_were_typed(levels):
    """format_radius() writes quarters of a grey level below 8, whole ones above."""
    text = f"{float(levels):g}/255"
    assert format_radius({"eps": number(float)(text), "norm": "linf"}) == text
    assert format_radius({"eps": number(float)(f"{float(levels / 255)!r}"), "norm": "linf"}) == text


@given(naturals, naturals, st.floats(1e-6, 1))
@often
def test_a_step_is_a_share_of_eps_or_a_number(numerator, denominator, eps):
    assert share_of_eps(f"eps/{denominator}") == f"eps/{denominator}"
    assert compute_step_size(f"eps/{denominator}", eps) == eps / denominator and compute_step_size("eps", eps) == eps
    assert compute_step_size(share_of_eps(f"{numerator}/{denominator}"), eps) == numerator / denominator


@pytest.mark.parametrize("text", ["0", "-1", "eps/0", "eps/-4", "eps*2", "eps 4", "epsilon", "nan", "1e400", "1e-500",
                                  "1e19", "", "4/0"])
def test_a_step_is_finite_and_above_0(text):
    with pytest.raises(ValueError, match="write a share of eps such as eps/4, or a number above 0"):
        share_of_eps(text)


@pytest.mark.parametrize(("kind", "text", "line"), [
    (plain_text, "", "is empty"), (plain_text, "a\0b", r"'a\x00b' contains control characters"),
    (plain_text, "a\nb", r"'a\nb' contains control characters"), (plain_text, "caf\udce9", "control characters"),
    (plain_text, "x" * 256, "'xxxxxxxxxxxxxxxxxxxx...' is too long: a name has at most 255 bytes"),
    (plain_text, "a/" * 2100, "a path 4095"), (plain_text, "\u00e9" * 128, "is too long"),
    (run_name, ".", "a name for a folder"), (run_name, "./.", "a name for a folder"), (run_name, "a/..", "a name for"),
    (run_name, "/a", "a name for"), (run_name, " a", "without spaces"), (run_name, "a ", "without spaces"),
    (run_name, "a /b", "without spaces"), (run_name, "\t", "control characters"), (run_name, "x" * 256, "too long"),
    (gpu_ids, "a", "such as 0 or 0,1,2,3"), (gpu_ids, "0,,1", "such as"), (gpu_ids, "-1", "such as"),
    (gpu_ids, "", "such as"), (gpu_ids, "0, 1", "such as"), (gpu_ids, "0,", "such as"), (gpu_ids, "\u0663", "such as"),
    (gpu_ids, "0,1,0", "names a GPU twice"), (gpu_ids, "1,01", "names a GPU twice"),
    (target, "1e3", "a class number, or an image file"), (target, "-1", "a class number"),
    (target, "a\0b", "control characters"),
    (target, "x" * 256, "too long"), (target, "9" * 5000, "too long"),
])
def test_names_paths_and_gpus_that_cannot_be(kind, text, line):
    with pytest.raises(ValueError) as error:
        kind(text)
    assert line in str(error.value) and str(error.value).isprintable()


def test_names_paths_and_gpus_that_can():
    for text in ("x" * 255, "/a b/\u00e9t\u00e9", "..", "\u200c", "a\u00a0b"):
        assert plain_text(text) == text
    assert run_name("a/b c") == "a/b c" and run_name("..a") == "..a"
    assert gpu_ids("0") == "0" and gpu_ids("3,01,2") == "3,1,2" and target("255") == 255
