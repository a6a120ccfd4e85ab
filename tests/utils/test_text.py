"""Text from untrusted sources, tables and JSON."""
import json
import math

import pytest

from utils.text import MAX_NAME_BYTES, escape_markdown, escape_unprintable, format_markdown, is_file_name, replace_nan


@pytest.mark.parametrize(("text", "shown"), [
    ("plain ü 日本", "plain ü 日本"), ("a\tb\nc", "a\tb\nc"), ("\x1b[31mred", "\\x1b[31mred"),
    ("\u202eevil", "\\u202eevil"), ("\udcff", "\\udcff"), ("", "")])
def test_unprintable_characters_are_escaped(text, shown):
    assert escape_unprintable(text) == shown


def test_line_breaks_and_tabs_are_escaped_on_request():
    assert escape_unprintable("a\tb\nc", keep="") == "a\\tb\\nc"


@pytest.mark.parametrize(("text", "shown"), [
    ("deeplabv3_resnet50", "deeplabv3_resnet50"), ("a|b", "a\\|b"), ("a\nb", "a\\\\nb"), ("<b>x", "&lt;b>x"),
    ("`x`", "\\`x\\`"), ("[a](b)", "\\[a\\](b)"), ("\\|", "\\\\\\|"), ("0.4 (>= 0.3)", "0.4 (>= 0.3)")])
def test_text_stays_text_in_markdown(text, shown):
    assert escape_markdown(text) == shown


@pytest.mark.parametrize(("name", "valid"), [
    ("img_1", True), ("ü" * (MAX_NAME_BYTES // 2), True), ("x" * (MAX_NAME_BYTES + 1), False), ("", False),
    ("a/b", False), ("a\\b", False), ("a\0", False), ("\udcff", True)])
def test_names_that_a_file_name_can_start_with(name, valid):
    assert is_file_name(name) is valid


def test_a_tables_columns_are_aligned():
    lines = format_markdown({"Attack": ["fgsm", "worst case"], "a|b": ["0.1", "-"]}).splitlines()
    assert lines == ["| Attack     | a\\|b |",
                     "| ---------- | ---- |",
                     "| fgsm       | 0.1  |",
                     "| worst case | -    |"]


def test_a_table_without_rows():
    assert format_markdown({"A": [], "B": []}) == "| A | B |\n| - | - |"


def test_nan_becomes_null_in_strict_json():
    value = {"rows": [{"Class IoU": {0: 0.1, 1: math.nan}}, math.nan, None, "nan", 2]}

    def refuse(text):
        raise ValueError(text)

    loaded = json.loads(json.dumps(replace_nan(value)), parse_constant=refuse)
    assert loaded == {"rows": [{"Class IoU": {"0": 0.1, "1": None}}, None, None, "nan", 2]}
