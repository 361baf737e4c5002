"""Error texts lose the secrets in them, and nothing else."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos_parallel.adapters.redact import redacted
from tests.adapters.parts import acall, call, team, toolbox

# Nothing of what follows is a key of anybody's.
SECRETS = [
    "sk-abcdEFGH1234abcdEFGH1234",
    "sk-proj-Ab12_-cdEF34ghIJ56",
    "sk-ant-api03-Ab12cdEF34ghIJ56-xyz",
    "sk-or-v1-0123456789abcdef",
    "AIzaSyA1234567890abcdefghijklmnopqrstu",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghij0123456789abcdef",
    "github_pat_11ABCDEFG0123456789_abcdef",
    "glpat-0123456789abcdefghij",
    "hf_abcdefghij0123456789",
    "xoxb-123456789012-abcdefGHIJ",
    "lsv2_pt_0123456789abcdef_01234",
    "gsk_0123456789abcdefghij",
    "tvly-0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "eyJhbGciOiJSU0EifQ.UGhIOguC7Iu4.48V1_ALb6US0.5eym8TW_c8Su.XFBoMYUZodetZd",
    "sk-lf-0123abcd-4567-89ef",
    "csk-0123456789abcdefghij",
    "pcsk_0123456789abcdefghij",
    "ls__0123456789abcdef",
    "ya29.a0AfH6SMBx0123456789",
    "GOCSPX-0123456789abcdef",
    "shpat_0123456789abcdef0123456789abcdef",
    "hvs.CAESIJ0123456789abcdef",
    "dapi0123456789abcdef0123456789abcdef",
    "key-0123456789abcdef0123456789abcdef",
    "SK0123456789abcdef0123456789abcdef",
    "SG.abcdefghij0123456789.abcdefghij0123456789",
    "pypi-AgEIcHlwaS5vcmcCJDAxMjM0NTY3LTg5YWItY2RlZi0wMTIz",
    "npm_abcdefghij0123456789abcdefghij012345",
    "123456789:AAabcdefghij0123456789abcdefghij01234",
]

TEXTS = [
    ("Incorrect API key provided: sk-ab***yz9.", "sk-ab***yz9"),
    ("Authorization: Bearer abc.def-123", "abc.def-123"),
    ("headers={'Authorization': 'Bearer 0123456789'}", "0123456789"),
    ("Authorization: Basic dXNlcjpwYXNz==", "dXNlcjpwYXNz"),
    ("api_key=hunter2", "hunter2"),
    ("OPENAI_API_KEY=hunter2 is wrong", "hunter2"),
    ('{"x-api-key": "hunter two", "model": "m"}', "hunter two"),
    ("{'api_key': 'hunter2'}", "hunter2"),
    ("Client(token='hunter2', url='x')", "hunter2"),
    ("GET https://host/path?key=1&access_token=hunter2&x=1", "hunter2"),
    ("password: hunter2", "hunter2"),
    ("pwd=hunter;", "hunter"),
    ("aws_secret_access_key = abc/def+ghi", "abc/def+ghi"),
    ("postgresql://me:hunter2@db.example/prod", "hunter2"),
    ("redis://:hunter2@localhost:6379/0", "hunter2"),
    ("Set-Cookie: cookie=session123", "session123"),
    ("password=987650", "987650"),
    ("userPassword=hunter2", "hunter2"),
    ('{"secretAccessKey": "hunter2"}', "hunter2"),
    (r"{\"api_key\": \"hunter2\"}", "hunter2"),
    (r"password='it\'s hunter2'", "hunter2"),
    ('api_key="hunter2', "hunter2"),
    ("login --password hunter2 --user me", "hunter2"),
    ("[('accept', '*/*'), ('x-api-key', 'hunter2')]", "hunter2"),
    ("(b'authorization', b'hunter2')", "hunter2"),
    ("Incorrect API key provided: 0123456789abcdef.", "0123456789abcdef"),
    ("the token abcdef0123456789 has expired", "abcdef0123456789"),
    ("https://me@corp.example:hunter2@host/path", "hunter2"),
    ("postgres://me:hunt@er2@host/path", "er2"),
    ("https://0123456789abcdef0123@errors.example/1", "0123456789abcdef0123"),
    ("GET https://host/path?key=hunter2", "hunter2"),
    ("POST https://hooks.slack.com/services/T01/B02/hunter2", "hunter2"),
    ("Authorization: Bearer aaaabbbbccccddddeeeeffffgggghhhh", "aaaabbbb"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
        "MIIabc",
    ),
]

PLAIN = [
    "max_tokens=20 is too low",
    "used 500 tokens: 300 of the prompt",
    "token limit: the prompt has 9000 tokens",
    "tokens=12345",
    "password: must have at least eight letters",
    "secret: the garden",
    "api_key=None",
    "{'api_key': None, 'token': None}",
    "missing keys: ['api_key', 'model_2']",
    "KeyError: 'token', 'user_1'",
    "Unexpected token: 'x1', expected one of '}', ']'",
    "Unexpected token < in JSON at position 0",
    "token: 5 of 10",
    "the token is a word of 12 letters",
    "credentials: /home/me/key_1.json is missing",
    "signature: (x, y=1)",
    "missing required key 'token': expected a text",
    'WWW-Authenticate: Bearer realm="example"',
    "Basic auth/login failed",
    "see http://localhost:8000/x, me@example.org",
    "http://host:80?mail=a@b",
    "no module named sk-learn-1.2.3, npm_config_2, key-value-2, hf_hub_1",
    "config=7, design=4",
    "no module named sk-learn or sk_learn",
    "task-0123456789 of run 0b859870-b836-a6e3-6a87-19181be6123d",
    "/usr/lib/python3.11/site-packages/httpx/_client.py, line 914",
    "https://example.org/a:b/c@d",
    "sha256: e3b0c44298fc1c149afbf4c8996fb924",
    "Basic authentication failed; bearer of bad news",
    "KeyError: 'id'",
    "the key 'name' is missing",
    "time 12:30:45, ratio 3:4",
    "",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key {} is wrong", "('{}',)", "x={}, y", "<{}>"])
def test_what_looks_like_a_key_is_gone(secret: str, around: str) -> None:
    text = redacted(around.format(secret))

    assert secret[-8:] not in text
    assert "…" in text


@pytest.mark.parametrize(("text", "secret"), TEXTS)
def test_what_is_called_a_secret_is_gone(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redacted(text)


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_what_was_there_stays_readable() -> None:
    text = "401: Bearer abc123def of https://me:secret@host, api_key='x' (sk-proj-abc123def)"
    assert redacted(text) == ("401: Bearer … of https://me:…@host, api_key=… (sk-proj-…)")


@given(st.lists(st.sampled_from([*((secret, secret) for secret in SECRETS), *TEXTS]), max_size=8))
def test_many_in_one_text_are_all_gone(found: list[tuple[str, str]]) -> None:
    text = redacted("\n".join(f"error: {text}" for text, _ in found))
    assert [secret for _, secret in found if secret in text] == []


PIECES = [
    *("sk-", "SG.", "AIza", "eyJ", "eyJaaaaaaaa-", "eyJaaaaaaaa.", "token=", "token: ", "token "),
    *(
        "token='",
        'token="',
        r"token=\"",
        "--token ",
        "('token', '",
        "api key is a",
        "Bearer ",
        "bearer a",
    ),
    *(
        "://a:",
        "://" + "a" * 24,
        "12345678:AA",
        "?key=",
        "-----BEGIN PRIVATE KEY-----",
        "-",
        " ",
        "1",
    ),
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_hostile_long_text_is_read(piece: str) -> None:
    redacted(piece * (500_000 // len(piece)))  # would take minutes if it were quadratic


@pytest.mark.parametrize("way", ["sync", "async"])
def test_neither_model_nor_artifact_see_the_key_in_an_error(way: str) -> None:
    def fails(text: str) -> str:
        raise PermissionError(f"Incorrect API key provided: {SECRETS[0]}")

    tool = toolbox(*team(it=fails, up=str.upper))["fan_out"]
    message = call(tool, input="x") if way == "sync" else asyncio.run(acall(tool, input="x"))

    assert "failed: PermissionError: Incorrect API key provided: sk-…" in message.text
    assert SECRETS[0] not in str(message)


def test_nor_in_a_merge_that_raises() -> None:
    def merge(answers: list[str]) -> str:
        raise PermissionError(SECRETS[0])

    tool = toolbox(*team(up=str.upper), merge_fn=merge)["fan_out"]
    assert SECRETS[0] not in str(call(tool, input="x", aggregation="merge"))
