"""Error texts without the secrets that they were given.

What looks like a key, a token or a password is replaced by ``…``; what it was stays readable. Each
pattern reads a text once, however hostile: whatever looks ahead looks a bounded way.
"""

from __future__ import annotations

import re

_GONE = "…"

# Keys that say by their beginning what they are. The digit keeps words such as sk-learn out.
_KEYS = re.compile(
    r"\b(sk-(?:ant-|proj-|or-|svcacct-)?|[spr]k_(?:live|test)_|gsk_|hf_|r8_|npm_|lsv2_\w{2}_|lsv2_"
    r"|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|xapp-|pplx-|xai-|nvapi-|tvly-|dop_v1_|pypi-|SG\."
    r"|AIza|AKIA|ASIA)"
    r"(?=[\w.*-]{0,200}[\d*])[\w.*-]{6,}"
)
_JSON_WEB_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.S
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s+)(?=[^\s\"',;]{0,200}[\d=._~+/-])[^\s\"',;]{6,}")
_URL = re.compile(r"(://[^/\s:@]{0,100}:)[^/\s@]{1,500}(?=@)")

_NAMES = (
    r"(?:api|access|secret|private|subscription|account|signing|encryption)[_ -]?key|apikey"
    r"|(?:client|app|api|consumer|webhook)[_-]?secret|secret(?:[_-]?access[_-]?key)?"
    r"|(?:access|auth|refresh|bearer|session|security|id)[_-]?token|token|passw(?:or)?d|passphrase"
    r"|pwd|authorization|credentials?|signature|sig|cookie"
)
# name=value, "name": "value", name: value; after a colon only what does not read as a word.
_NAMED = re.compile(
    rf"(?i)(?<![a-z])({_NAMES})([\"']?\s{{0,3}}(?:=\s{{0,3}}|:\s{{0,3}}(?=[\"'])"
    r"|:\s{0,3}(?=[^\s,;&\"']{0,200}[\d*_+/=])))"
    r"(?!(?:none|null|true|false|\d{1,6})\b|…)(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"')}\]]+)"
)


def redacted(text: str) -> str:
    """*text* with ``…`` in place of what looks like a secret.

    >>> redacted("401: Incorrect API key sk-proj-abc123def456; see api_key=hunter22")
    '401: Incorrect API key sk-proj-…; see api_key=…'
    """
    text = _PRIVATE_KEY.sub(rf"\1{_GONE}\2", text)
    text = _URL.sub(rf"\1{_GONE}", text)
    text = _JSON_WEB_TOKEN.sub(f"eyJ{_GONE}", text)
    text = _KEYS.sub(rf"\1{_GONE}", text)
    text = _SCHEME.sub(rf"\1\2{_GONE}", text)
    return _NAMED.sub(rf"\1\2{_GONE}", text)
