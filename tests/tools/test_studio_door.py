"""Who may see the studio's page: this user's own browser, with the key that the terminal has printed."""

import asyncio
import socket

import pytest
from small_runs import command

from unigen.tools.studio.door import POLICY, Door
from unigen.tools.studio.page import HOST, bound

KEY, PORT = "secret", 7860


async def _inner(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"inside"})


def asked(path: str = "/", query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a request."""
    events = []

    async def send(event) -> None:
        events.append(event)

    given = {"host": f"127.0.0.1:{PORT}", **headers}
    scope = {"type": "http", "path": path, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    asyncio.run(Door(_inner, KEY, PORT)(scope, None, send))
    found = {name.decode(): value.decode() for name, value in events[0]["headers"]}
    return events[0]["status"], found, events[1]["body"]


def test_the_key_is_exchanged_for_a_cookie():
    status, headers, _ = asked(query=f"key={KEY}")
    assert status == 200 and "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert asked("/config", cookie=cookie)[::2] == (200, b"inside")
    assert asked("/config", cookie=f"a=b; {cookie}; c=d")[0] == 200, "among others"


@pytest.mark.parametrize(
    "cookie", [{}, {"cookie": f"unigen_studio_{PORT}=wrong"}, {"cookie": "unigen_studio_1=secret"}]
)
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/file=/etc/passwd", "/gradio_api/upload"])
def test_nothing_is_shown_without_the_key(path, cookie):
    status, _, body = asked(path, **cookie)
    assert status == 401 and b"inside" not in body
    assert asked(query="key=wrong")[0] == 401 and asked("/config", query=f"key={KEY}")[0] == 401


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example:7860"}, {"host": "127.0.0.1:80"}, {"origin": "http://evil.example"}, {"origin": "null"}],
)
def test_other_names_and_other_sites_are_refused(headers):
    good = {"cookie": f"unigen_studio_{PORT}={KEY}"}
    assert asked(**good)[0] == 200, "negative control"
    assert asked(**good, **headers)[0] == 403


def test_answers_forbid_other_sources():
    headers = asked(cookie=f"unigen_studio_{PORT}={KEY}")[1]
    assert headers["content-security-policy"] == POLICY and "http" not in POLICY
    assert headers["content-type"] == "text/plain"


def test_it_listens_on_this_machine_alone_and_finds_a_free_port():
    with bound(0)[0] as first:
        host, port = first.getsockname()
        first.listen()
        assert host == HOST == "127.0.0.1"
        with pytest.raises(ValueError, match=f"port={port} is taken"):
            bound(port)
    assert isinstance(bound(None)[0], socket.socket)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("port=99999", "port=99999 is not a number from 0 to 65535"),
        ("prt=1", "unknown key 'prt' (did you mean 'port'?)"),
        (f"runs={__file__}", "is no folder"),
    ],
)
def test_bad_words_of_the_command_are_one_sentence(word, said, capfd):
    assert command("studio.py", word) == 1
    err = capfd.readouterr().err
    assert said in err and err.startswith("error: ") and err.count("\n") == 1


def test_without_gradio_it_says_what_to_install(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr("unigen.tools.studio.page.find_spec", lambda name: None)
    assert command("studio.py", f"runs={tmp_path}") == 1
    assert "pip install 'unigen[studio]'" in capfd.readouterr().err
