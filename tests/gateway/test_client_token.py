"""Where a token stands in a request, for every API, and what a handshake may answer."""

from __future__ import annotations

import pytest

from gateway.client_token import answered_subprotocol, client_token, offered_subprotocols

SUBPROTOCOLS = "sec-websocket-protocol"


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ({}, {}, ""),
        ({"authorization": "Bearer abc"}, {}, "abc"),
        ({"authorization": " bearer   abc "}, {}, "abc"),
        ({"authorization": "Token abc"}, {}, "abc"),
        ({"authorization": "TOKEN abc"}, {}, "abc"),
        ({"authorization": "Basic YWJj"}, {}, ""),
        ({"authorization": "Bearer"}, {}, ""),
        ({"authorization": "abc"}, {}, ""),
        ({"x-api-key": " abc "}, {}, "abc"),
        (
            {SUBPROTOCOLS: "realtime, openai-insecure-api-key.abc, openai-beta.realtime-v1"},
            {},
            "abc",
        ),
        ({SUBPROTOCOLS: "token, abc"}, {}, "abc"),
        ({SUBPROTOCOLS: "token,abc,def"}, {}, "abc"),
        ({SUBPROTOCOLS: "bearer, abc"}, {}, "abc"),
        ({SUBPROTOCOLS: "token"}, {}, ""),
        ({SUBPROTOCOLS: "earwire.v1, realtime"}, {}, ""),
        ({}, {"api_key": ["abc"]}, "abc"),
        ({}, {"api_key": ["", "abc", "def"]}, "abc"),
        ({}, {"api_key": [""]}, ""),
        ({}, {"token": ["abc"]}, ""),
    ],
)
def test_where_a_token_stands(
    headers: dict[str, str], query: dict[str, list[str]], token: str
) -> None:
    assert client_token(headers, query) == token


def test_headers_come_before_subprotocols_and_these_before_the_query() -> None:
    headers = {
        "authorization": "Bearer first", "x-api-key": "second", SUBPROTOCOLS: "token, third",
    }  # fmt: skip
    query = {"api_key": ["fourth"]}
    for name, expected in [
        ("authorization", "first"), ("x-api-key", "second"), (SUBPROTOCOLS, "third"),
    ]:  # fmt: skip
        assert client_token(headers, query) == expected
        del headers[name]
    assert client_token(headers, query) == "fourth"


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("", None),
        (" , ", None),
        ("earwire.v1", "earwire.v1"),
        ("realtime, openai-insecure-api-key.abc, openai-beta.realtime-v1", "realtime"),
        ("realtime, earwire.v1", "earwire.v1"),
        ("token, abc", "token"),
        ("bearer, abc", "bearer"),
        ("openai-insecure-api-key.abc", None),
        ("chat", None),
    ],
)
def test_the_answer_never_names_a_key(header: str, answer: str | None) -> None:
    assert answered_subprotocol(offered_subprotocols({SUBPROTOCOLS: header})) == answer
