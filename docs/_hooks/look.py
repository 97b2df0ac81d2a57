"""Code in sentences that does not break inside a word, which neither Markdown nor CSS can say."""

import re
from typing import Any

_INLINE_CODE = re.compile(r"(?<!<pre>)(?<!<span></span>)<code>([^<\n]+)</code>")
_LONGEST = 36  # characters that fit on a line of a phone


def on_page_content(html: str, **kwargs: Any) -> str:
    """mkdocs' hook: mark short words of inline code."""
    return _INLINE_CODE.sub(_unbroken, html)


def _unbroken(code: re.Match[str]) -> str:
    words = re.sub(r"\S+", lambda word: _word(word[0]), code[1])
    return f"<code>{words}</code>"


def _word(word: str) -> str:
    return f'<span class="word">{word}</span>' if len(word) <= _LONGEST else word
