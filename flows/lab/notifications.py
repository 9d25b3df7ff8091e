"""What is sent to whom when something has happened: a YAML file, made into Prefect's own automations.

    webhooks:
      chat: {url: "https://chat.example.org/hooks/…", headers: {Authorization: …}}
    notify:
      - {when: run failed, webhook: chat}
      - {when: sweep done, webhook: chat}

Prefect keeps an address and its headers encrypted, and its pages do not show them. Its UI shows the automations, by names that begin
with `lab: `; those that the file no longer asks for are removed, others are left alone. The body is JSON: `text` for people, then
`when`, `flow_run`, `state`, `message`, `url`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from components.errors import RequestError, closest
from flows.lab import health
from flows.lab.settings import Settings

WHEN = {
    "run done": (["train"], ["Completed"]),
    "run failed": (["train", "evaluate"], ["Failed", "Crashed"]),
    "sweep done": (["sweep"], ["Completed"]),
    "sweep failed": (["sweep"], ["Failed", "Crashed"]),
}
"""What can be waited for → flows, and the states that they come to."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,99}")
"""What a webhook may be called: its block's name and the automations' are made of it."""
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""The name of an HTTP header (RFC 9110, 5.6.2)."""
PREFIX = "lab: "
BODY = """{{
 "text": {{{{ ("%s: " ~ flow_run.name ~ (": " ~ flow_run.state.message if flow_run.state.message else "")) | tojson }}}},
 "when": "%s",
 "flow_run": {{{{ flow_run.name | tojson }}}},
 "state": {{{{ flow_run.state.name | tojson }}}},
 "message": {{{{ (flow_run.state.message or "") | tojson }}}},
 "url": {{{{ ("%s/runs/flow-run/" ~ flow_run.id) | tojson }}}}
}}"""


def read(settings: Settings) -> dict[str, Any]:
    """The file's content, checked; empty where there is none.

    Raises:
        RequestError: it is not as the file has to be; the message names the place and no address.
    """
    import yaml

    file = settings.notifications
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"webhooks": {}, "notify": []}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # what a parser says might hold what it could not read
        raise RequestError(f"{file} cannot be read as YAML") from None
    found = {} if found is None else found
    wanted = {key: found.get(key) for key in ("webhooks", "notify")} if isinstance(found, dict) else {}
    wanted = {"webhooks": {}, "notify": []} | {key: value for key, value in wanted.items() if value is not None}
    for problem in _problems(found, **wanted):
        raise RequestError(f"{file}: {problem}")
    return wanted


def _problems(found: Any, webhooks: Any, notify: Any) -> Iterator[str]:
    if not isinstance(found, dict) or not isinstance(webhooks, dict) or not isinstance(notify, list):
        yield "it has to hold `webhooks:` (names with a url each) and `notify:` (a list)"
        return
    for key in found.keys() - {"webhooks", "notify"}:
        yield f"{key!r} means nothing here{closest(str(key), ['webhooks', 'notify'])}"
    slugs: dict[str, str] = {}
    for name, webhook in webhooks.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            begins = "it has to begin with a letter (a to z) or a digit, and may go on with '-', '_' and spaces, too"
            yield f"a webhook cannot be called {name!r}: {begins}"
            continue
        if (other := slugs.setdefault(_slug(name), name)) != name:
            yield f"the webhooks {other!r} and {name!r} differ only by signs that Prefect takes for the same; rename one"
        if not isinstance(webhook, dict) or not _is_address(webhook.get("url")):
            yield f"the webhook {name!r} needs a url that begins with https:// or http://"
        elif webhook.keys() - {"url", "headers"}:
            yield f"the webhook {name!r} may have `url` and `headers` only"
        elif not _are_headers(webhook.get("headers")):
            yield f'the headers of the webhook {name!r} have to be names with a text each, such as {{X-Token: "12"}}'
    for number, line in enumerate(notify, 1):
        if not isinstance(line, dict) or line.keys() != {"when", "webhook"}:
            yield f"line {number} of notify needs `when` and `webhook`, and nothing else"
            continue
        when, webhook = line["when"], line["webhook"]
        if not isinstance(when, str) or when not in WHEN:
            yield f"line {number} of notify: when is {when!r}{closest(str(when), WHEN)}; it has to be {', '.join(WHEN)}"
        elif not isinstance(webhook, str) or webhook not in webhooks:
            yield f"line {number} of notify: there is no webhook {webhook!r}{closest(str(webhook), map(str, webhooks))}"


def _is_address(url: Any) -> bool:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        _ = parts.port  # asked for only to be judged
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)


def _are_headers(headers: Any) -> bool:
    """Whether HTTP can carry them."""
    if headers is None:
        return True
    return isinstance(headers, dict) and all(
        isinstance(name, str) and HEADER.fullmatch(name) and isinstance(text, str) and text.isascii() and text.isprintable()
        for name, text in headers.items()
    )


def _slug(name: str) -> str:
    """What Prefect calls a webhook's block."""
    return f"lab-{name}".lower().replace("_", "-").replace(" ", "-")


def apply(settings: Settings) -> list[str]:
    """Make Prefect's automations what the file says; returns their names.

    Raises:
        RequestError: the file is wrong.
        OSError: the server does not answer as it should.
    """
    wanted = read(settings)
    blocks = {name: _block(settings, name, webhook) for name, webhook in wanted["webhooks"].items()}
    automations = {}
    for line in wanted["notify"]:
        automation = _automation(settings, line["when"], line["webhook"], blocks[line["webhook"]])
        automations[automation["name"]] = automation
    there = health.ask(settings, "/automations/filter", {"limit": 200})
    known = {each["name"]: each["id"] for each in there if each["name"].startswith(PREFIX)}
    for name, automation in automations.items():
        if name in known:
            health.ask(settings, f"/automations/{known[name]}", automation, method="PUT")
        else:
            health.ask(settings, "/automations/", automation)
    for name in known.keys() - automations.keys():
        health.ask(settings, f"/automations/{known[name]}", method="DELETE")
    return sorted(automations)


def _block(settings: Settings, name: str, webhook: Mapping[str, Any]) -> str:
    """The id of the block that keeps a webhook's address, made or brought up to date."""
    kind = health.ask(settings, "/block_types/slug/webhook")["id"]
    headers = {"Content-Type": "application/json", **(webhook.get("headers") or {})}
    data = {"method": "POST", "url": webhook["url"], "headers": headers, "allow_private_urls": True, "verify": True}
    slug = _slug(name)
    query = {"block_documents": {"block_type_id": {"any_": [kind]}, "name": {"any_": [slug]}}}
    found = health.ask(settings, "/block_documents/filter", query)
    if found:
        health.ask(settings, f"/block_documents/{found[0]['id']}", {"data": data, "merge_existing_data": False}, method="PATCH")
        return str(found[0]["id"])
    schemas = health.ask(settings, "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    body = {"name": slug, "data": data, "block_type_id": kind, "block_schema_id": schemas[0]["id"]}
    return str(health.ask(settings, "/block_documents/", body)["id"])


def _automation(settings: Settings, when: str, webhook: str, block: str) -> dict[str, Any]:
    flows, states = WHEN[when]
    return {
        "name": f"{PREFIX}{when} → {webhook}",
        "description": f"From {settings.notifications.name} of the lab: {json.dumps(when)}",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [f"prefect.flow-run.{state}" for state in states],
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": flows},
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {"type": "call-webhook", "block_document_id": block, "payload": BODY.format() % (when, when, settings.prefect_ui)},
        ],
    }
