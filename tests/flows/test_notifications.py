"""notifications.yaml: what is wrong in it is one line, and what it says becomes Prefect's automations. Sent for real: test_team_e2e."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from lab_command import lab

from components.errors import RequestError
from flows.lab import health, notifications
from flows.lab.settings import Settings

GOOD = """
webhooks:
  chat: {url: "https://chat.example.org/hooks/s3cret", headers: {X-Token: t0ken}}
notify:
  - {when: run failed, webhook: chat}
  - {when: sweep done, webhook: chat}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("webhooks: [", "cannot be read as YAML"),
        ("[1]", "it has to hold `webhooks:` (names with a url each) and `notify:` (a list)"),
        ("webhook: {}", "'webhook' means nothing here (did you mean 'webhooks'?)"),
        ("webhooks: {chat: {url: 's3cret'}}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        ("webhooks: {chat: {url: 'https://s3cret.org', token: x}}", "the webhook 'chat' may have `url` and `headers` only"),
        (
            GOOD.replace("run failed", "run fails"),
            "line 1 of notify: when is 'run fails' (did you mean 'run failed'?); it has to be",
        ),
        (GOOD.replace("webhook: chat}\n  -", "webhook: cat}\n  -"), "line 1 of notify: there is no webhook 'cat' (did you mean 'chat'?)"),
        ("webhooks: {chat: {url: 'http://[s3cret'}}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        ("webhooks: {chat: {url: 'http://s3cret:port/x'}}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        ("webhooks: {chat: {url: 'http://s3cret.org/a b'}}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        ("webhooks: {chat: {url: [s3cret]}}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        ("webhooks: {chat: null}", "the webhook 'chat' needs a url that begins with https:// or http://"),
        (GOOD.replace("{X-Token: t0ken}", "[s3cret]"), "the headers of the webhook 'chat' have to be names with a text each, such as"),
        (GOOD.replace("t0ken", "12"), "the headers of the webhook 'chat' have to be names with a text each, such as"),
        (GOOD.replace("t0ken", "s3cret→"), "the headers of the webhook 'chat' have to be names with a text each, such as"),
        (GOOD.replace("t0ken", '"s3cret\\nX: y"'), "the headers of the webhook 'chat' have to be names with a text each, such as"),
        (GOOD.replace("X-Token", "X Token"), "the headers of the webhook 'chat' have to be names with a text each, such as"),
        (GOOD.replace("when: run failed", "when: [x]"), "line 1 of notify: when is ['x']; it has to be run done, run failed"),
        (GOOD.replace("webhook: chat}", "webhook: [1]}", 1), "line 1 of notify: there is no webhook [1]"),
        (
            "webhooks: {'Ünï côde!/x': {url: 'http://s3cret'}}",
            "a webhook cannot be called 'Ünï côde!/x': it has to begin with a letter (a to z)",
        ),
        ("webhooks: {1: {url: 'http://s3cret'}}", "a webhook cannot be called 1: it has to begin with a letter (a to z)"),
        (
            "webhooks: {a_b: {url: 'http://s3cret'}, A-b: {url: 'http://s3cret'}}",
            "the webhooks 'a_b' and 'A-b' differ only by signs that Prefect takes for the same; rename one",
        ),
        ("webhooks: 0", "it has to hold `webhooks:` (names with a url each) and `notify:` (a list)"),
        ("false", "it has to hold `webhooks:` (names with a url each) and `notify:` (a list)"),
        ("webhooks: {[1]: 2}", "cannot be read as YAML"),
        ("day: 2026-13-45", "cannot be read as YAML"),
        ("[" * 400, "cannot be read as YAML"),
        ("\0", "cannot be read as YAML"),
        (GOOD.replace("when: sweep done, ", ""), "line 2 of notify needs `when` and `webhook`, and nothing else"),
    ],
)
def test_what_is_wrong_is_one_line_without_the_address(text: str, message: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    settings.notifications.write_text(text)
    with pytest.raises(RequestError) as caught:
        notifications.read(settings)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(settings.notifications))
    assert "s3cret" not in str(caught.value)


def test_a_binary_file_is_one_line(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    settings.notifications.write_bytes(b"\x89PNG\xff\xfe")
    done = lab(settings, "notify")
    assert (done.code, done.err) == (2, f"lab: {settings.notifications} cannot be read as YAML\n")


@pytest.mark.parametrize("text", ["", "webhooks:", "notify:", "webhooks:\nnotify:\n"])
def test_an_empty_key_means_none(text: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    settings.notifications.write_text(text)
    assert notifications.read(settings) == {"webhooks": {}, "notify": []}


def test_headers_may_be_empty_and_names_that_differ_have_blocks_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefect, settings = Prefect(), Settings(tmp_path)
    monkeypatch.setattr(health, "ask", prefect.ask)
    settings.notifications.write_text("webhooks: {My Chat: {url: 'http://one', headers: null}, my_chat2: {url: 'http://two'}}")
    notifications.apply(settings)
    found = {block["name"]: (block["data"]["url"], block["data"]["headers"]) for block in prefect.blocks.values()}
    plain = {"Content-Type": "application/json"}
    assert found == {"lab-my-chat": ("http://one", plain), "lab-my-chat2": ("http://two", plain)}


class Prefect:
    """Keeps blocks and automations as the server does."""

    def __init__(self) -> None:
        self.blocks: dict[str, Any] = {}
        self.automations: dict[str, Any] = {"mine": {"id": "mine", "name": "somebody's own"}}

    def ask(self, _settings: Settings, path: str, body: Any = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
        kind, _, rest = path.strip("/").partition("/")
        if kind == "block_types":
            return {"id": "webhooks"}
        if kind == "block_schemas":
            return [{"id": "schema"}]
        kept = self.blocks if kind == "block_documents" else self.automations
        if rest == "filter":
            names = body.get("block_documents", {}).get("name", {}).get("any_")
            return [each for each in kept.values() if names is None or each["name"] in names]
        if method == "DELETE":
            return kept.pop(rest)
        identity = rest or f"{kind}-{len(kept)}"
        kept[identity] = {**kept.get(identity, {}), **body, "id": identity}
        return kept[identity]


def test_a_file_becomes_automations_and_what_it_no_longer_says_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefect, settings = Prefect(), Settings(tmp_path)
    monkeypatch.setattr(health, "ask", prefect.ask)
    assert notifications.apply(settings) == []
    settings.notifications.write_text(GOOD)
    for _ in range(2):  # again does no harm
        assert notifications.apply(settings) == ["lab: run failed → chat", "lab: sweep done → chat"]
    [block] = prefect.blocks.values()
    assert (block["name"], block["data"]["url"]) == ("lab-chat", "https://chat.example.org/hooks/s3cret")
    assert block["data"]["headers"] == {"Content-Type": "application/json", "X-Token": "t0ken"}
    made = {each["name"]: each for each in prefect.automations.values() if "trigger" in each}
    assert len(made) == 2
    assert made["lab: run failed → chat"]["trigger"]["expect"] == ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"]
    assert made["lab: sweep done → chat"]["trigger"]["expect"] == ["prefect.flow-run.Completed"]
    assert made["lab: sweep done → chat"]["trigger"]["match_related"]["prefect.resource.name"] == ["sweep"]
    assert all(each["actions"][0]["block_document_id"] == block["id"] for each in made.values())
    assert "s3cret" not in json.dumps(list(prefect.automations.values()))

    settings.notifications.write_text(GOOD.replace("  - {when: run failed, webhook: chat}\n", ""))
    assert notifications.apply(settings) == ["lab: sweep done → chat"]
    assert sorted(each["name"] for each in prefect.automations.values()) == ["lab: sweep done → chat", "somebody's own"]


def test_what_is_sent_is_json_whatever_a_message_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefect, settings = Prefect(), Settings(tmp_path)
    monkeypatch.setattr(health, "ask", prefect.ask)
    settings.notifications.write_text(GOOD)
    notifications.apply(settings)
    [payload] = [each["actions"][0]["payload"] for each in prefect.automations.values() if each["name"].startswith("lab: run failed")]
    state = {"name": "Failed", "message": 'a "quoted"\nline {{ 1 }}'}
    sent = json.loads(jinja2.Template(payload).render(flow_run={"id": "7b", "name": "mlp", "state": state}))
    assert sent == {
        "text": 'run failed: mlp: a "quoted"\nline {{ 1 }}',
        "when": "run failed",
        "flow_run": "mlp",
        "state": "Failed",
        "message": 'a "quoted"\nline {{ 1 }}',
        "url": "http://127.0.0.1:4200/runs/flow-run/7b",
    }
