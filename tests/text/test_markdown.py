"""Tables and texts in Markdown, read back by a Markdown parser."""

from html import unescape

import pytest
from markdown_it import MarkdownIt

from partner_rl.text.markdown import markdown_table, plain_markdown

PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


def cells(table: str) -> list[str]:
    tokens = PARSER.parse(table)
    return ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]


@pytest.mark.parametrize(
    "text",
    ["plain", "a | b", "a \\| b", "*stars* and _lines_", "`code`", "<b>no tag</b>", "[not a](link)", "1.0 [0.5, 1.5]"],
)
def test_a_plain_text_is_shown_as_it_is(text):
    table = markdown_table(("name", "text"), [("row", plain_markdown(text))])
    assert cells(table) == ["name", "text", "row", text]
    assert all(tag not in unescape(PARSER.render(table)) for tag in ("<em>", "<code>", "<a "))


def test_cells_are_markdown_on_one_line():
    table = markdown_table(("key", "value"), [("`a`", 1), ("b", "two \n\n lines")])
    assert table == "| key | value |\n|---|---|\n| `a` | 1 |\n| b | two lines |"
