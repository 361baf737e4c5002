"""Error texts without the secrets that they were given.

What looks like a key, a token or a password is replaced by ``…``; what it was stays readable. Each
pattern takes time in proportion to the text, however hostile: one that may begin anywhere looks a
bounded way, and an unbounded one begins only where a word does.
"""

from __future__ import annotations

import re

_GONE = "…"

# Beginnings of keys that say whose they are; what follows tells some from ordinary words.
_KEYS = re.compile(
    r"\b(sk-(?!learn\b)(?:ant-|proj-|or-|lf-|svcacct-)?|pk-lf-|csk-|[spr]k_(?:live|test)_|whsec_"
    r"|gsk_|ls__|lsv2_\w{2}_|lsv2_|gh[pousr]_|github_pat_|gl(?:pat|dt|rt)-|glsa_|glc_"
    r"|xox[abeprs]-|xapp-|pplx-|xai-|nvapi-|tvly-|pcsk_|tgp_v1_|do[opr]_v1_|dckr_pat_"
    r"|shp(?:at|ss|ca)_|sq0[a-z]{3}-|hv[sb]\.|ya29\.|GOCSPX-|PMAK-|NRAK-|CFPAT-|sntrys_|figd_"
    r"|lin_api_|AIza|A[KS]IA(?=[0-9A-Z]{12})|SG\.(?=[\w-]{16,80}\.)|pypi-(?=[\w-]{40})"
    r"|(?:hf|r8|fw|npm|ntn|nfp|sbp|e2b|jina)_(?=[A-Za-z0-9]{16})"
    r"|(?:dapi|key-|SK|AC)(?=[0-9a-f]{32}))"
    r"(?=[\w.*-]{0,200}[\d*])[\w.*-]{6,}"
)
_JSON_WEB_TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){0,3}")
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.S
)
_PASSWORD_IN_URL = re.compile(r"(://[^/\s:]{0,100}:)[^/\s?]{1,500}(?=@)")
_USER_IN_URL = re.compile(r"(://)(?=[\w-]{0,200}\d)[\w-]{20,200}(?=:?@)")
_PATH_IN_URL = re.compile(
    r"(hooks\.slack\.com/[a-z]{1,20}/|discord(?:app)?\.com/api/webhooks/\d{1,30}/)[\w/-]+"
)
_BOT_TOKEN = re.compile(r"(?<!\d)(\d{8,10}:)AA[\w-]{33,}")
_IN_QUERY = re.compile(r"(?i)([?&](?:key|x-amz-(?:credential|security-token))=)[^\s&\"'<>]+")
_SCHEME = re.compile(
    r"(?i)\b(bearer|basic)(\s{1,3})(?!(?:realm|scope|charset|error(?:_\w{1,20})?)=)"
    r"(?=[^\s\"',;]{0,200}[\d=]|[^\s\"',;]{32})[^\s\"',;]{6,}"
)

# What a secret is called, in any spelling: API_KEY, apiKey, x-api-key, userPassword.
_NAME = (
    r"(?:api|access|account|secret|private|shared|subscription|signing|encryption|master)[_ -]?key"
    r"|(?:client|app|api|consumer|webhook)[_ -]?secret|secret(?:[_-]?access[_-]?key)?"
    r"|(?:access|auth|refresh|bearer|session|security|id|api)[_ -]?token|token|jwt"
    r"|passw(?:or)?d|passphrase|passcode|pwd|authorization|(?:set-)?cookie"
)
# These may be harmless: a path, the parameters of a function.
_MAYBE = r"credentials?|signature|(?<![a-z])sig|(?<![a-z])sid|session[_-]?id"
_QUOTE = r"(?:\\?[\"'])"
_VALUE = (
    r"(?:\\\"[^\"\\\n]*+\\\"|\"(?:[^\"\\\n]|\\.)*+\"|'(?:[^'\\\n]|\\.)*+'"
    rf"|{_QUOTE}[^\s\"'\\]*+|[^\s,;&\"'\\)}}\]]+)"
)
_KNOWN = rf"(?!{_QUOTE}?(?:none|null|true|false)\b|{_GONE})"
_EQUALS = rf"{_QUOTE}?\s{{0,3}}(?:=\s{{0,3}}|:\s{{0,3}}(?={_QUOTE}))"
_NAMED = re.compile(rf"(?is)(?<!unexpected )((?:{_NAME}|{_MAYBE}){_EQUALS}){_KNOWN}{_VALUE}")
# After a colon, or none, only what does not read as a word, a path or a number of something.
_COLON = rf"(?:\s(?:provided|given|supplied))?{_QUOTE}?\s{{0,3}}:\s{{0,3}}"
_TOLD = re.compile(
    rf"(?i)(?<!unexpected )((?:{_NAME}){_COLON})(?=[^\s,;&\"']{{0,200}}[\d*])"
    rf"(?!\d{{1,6}}\b|/\w){_KNOWN}[^\s,;&\"'\\)}}\]]+"
)
_SPOKEN = re.compile(
    rf"(?i)((?:{_NAME})(?:\sis)?\s{{1,3}}{_QUOTE}?)(?=[a-z0-9.+/=-]{{0,200}}\d)[a-z0-9.+/=-]{{16,}}"
)
_OPTION = re.compile(rf"(?i)(--(?:{_NAME})\s{{1,3}}){_KNOWN}{_VALUE}")
_PAIR = re.compile(
    rf"(?is)(\(b?[\"'](?:\w{{1,20}}-){{0,3}}(?:{_NAME})[\"'],\s?b?)(?=[\"']){_VALUE}(?=\))"
)

_REPLACED = (
    (_PRIVATE_KEY, rf"\1{_GONE}\2"),
    (_PASSWORD_IN_URL, rf"\1{_GONE}"),
    (_USER_IN_URL, rf"\1{_GONE}"),
    (_PATH_IN_URL, rf"\1{_GONE}"),
    (_BOT_TOKEN, rf"\1{_GONE}"),
    (_JSON_WEB_TOKEN, f"eyJ{_GONE}"),
    (_KEYS, rf"\1{_GONE}"),
    (_SCHEME, rf"\1\2{_GONE}"),
    (_IN_QUERY, rf"\1{_GONE}"),
    (_PAIR, rf"\1{_GONE}"),
    (_OPTION, rf"\1{_GONE}"),
    (_NAMED, rf"\1{_GONE}"),
    (_TOLD, rf"\1{_GONE}"),
    (_SPOKEN, rf"\1{_GONE}"),
)


def redacted(text: str) -> str:
    """*text* with ``…`` in place of what looks like a secret.

    >>> redacted("401: Incorrect API key sk-proj-abc123def456; see api_key=hunter22")
    '401: Incorrect API key sk-proj-…; see api_key=…'
    """
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return text
