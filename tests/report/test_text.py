from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from deploycomp.report.text import block, clean, fenced, markdown, shorten

ANYTHING = st.text(max_size=300)


def test_terminal_escapes_line_breaks_and_direction_marks_disappear():
    assert clean("\x1b[31mred\x1b[0m\n\tname\x07\u202e!") == "red name!"
    assert clean("\x1b]0;title\x07after") == "after"
    assert block("a\n\tb\x1b[2Jc\x00") == "a\n\tbc"


@given(ANYTHING)
def test_clean_text_is_one_printable_line(text):
    assert not any(unicodedata.category(each) in {"Cc", "Cf", "Cs"} for each in clean(text))
    assert "\n" not in clean(text)


@given(ANYTHING, st.integers(min_value=3, max_value=80))
def test_shortened_text_keeps_its_limit_and_both_ends(text, limit):
    name = shorten(text, limit)
    assert len(name) <= limit
    if len(clean(text)) > limit:
        assert name[0] == clean(text)[0]
        assert name[-1] == clean(text)[-1]
        assert "…" in name


def test_markdown_is_escaped():
    hostile = "a|b <script>x</script> `code` [link](http://evil) ![i](x) *b* @team #12 www.evil.com & $m$"
    text = markdown(hostile)
    assert "|" not in text
    assert "<script" not in text
    assert "://" not in text
    assert "@team" not in text
    assert "#&#8203;12" in text
    assert "www.evil" not in text
    assert "\\`code\\`" in text
    assert "\\[link\\]" in text


@given(ANYTHING)
def test_no_text_opens_markup_in_markdown(text):
    assert not re.search(r"(?<!\\)[`*\[\]<>~|]", re.sub(r"\\\\", "", markdown(text)))


def test_rendered_markdown_shows_the_name_as_it_was():
    from markdown_it import MarkdownIt

    hostile = "x|y <b>`*_[z](u) \\ & ~~s~~"
    table = MarkdownIt().enable("table").render(f"| a |\n|--|\n| {markdown(hostile)} |\n")
    assert "<td>x|y &lt;b&gt;`*_[z](u) \\ &amp; ~~s~~</td>" in table


@given(ANYTHING)
def test_no_text_closes_its_fence(text):
    lines = fenced(text, "yaml").split("\n")
    fence = lines[0].removesuffix("yaml")
    assert lines[-1] == fence
    assert not any(line.strip().startswith(fence) for line in lines[1:-1])
