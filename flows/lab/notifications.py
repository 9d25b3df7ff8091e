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
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {"webhooks": {}, "notify": []}
    except (OSError, yaml.YAMLError):  # what a parser says might hold what it could not read
        raise RequestError(f"{file} cannot be read as YAML") from None
    for problem in _problems(found):
        raise RequestError(f"{file}: {problem}")
    return {"webhooks": found.get("webhooks", {}), "notify": found.get("notify", [])}


def _problems(found: Any) -> Iterator[str]:
    if not isinstance(found, dict) or not isinstance(found.get("webhooks", {}), dict) or not isinstance(found.get("notify", []), list):
        yield "it has to hold `webhooks:` (names with a url each) and `notify:` (a list)"
        return
    for key in found.keys() - {"webhooks", "notify"}:
        yield f"{key!r} means nothing here{closest(str(key), ['webhooks', 'notify'])}"
    webhooks = found.get("webhooks", {})
    for name, webhook in webhooks.items():
        parts = urlsplit(str(webhook.get("url", ""))) if isinstance(webhook, dict) else urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield f"the webhook {name!r} needs a url that begins with https:// or http://"
        elif webhook.keys() - {"url", "headers"}:
            yield f"the webhook {name!r} may have `url` and `headers` only"
    for number, line in enumerate(found.get("notify", []), 1):
        if not isinstance(line, dict) or line.keys() != {"when", "webhook"}:
            yield f"line {number} of notify needs `when` and `webhook`, and nothing else"
        elif line["when"] not in WHEN:
            yield f"line {number} of notify: when is {line['when']!r}{closest(str(line['when']), WHEN)}; it has to be {', '.join(WHEN)}"
        elif line["webhook"] not in webhooks:
            yield f"line {number} of notify: there is no webhook {line['webhook']!r}{closest(str(line['webhook']), webhooks)}"


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
    headers = {"Content-Type": "application/json", **webhook.get("headers", {})}
    data = {"method": "POST", "url": webhook["url"], "headers": headers, "allow_private_urls": True, "verify": True}
    slug = f"lab-{name}".lower().replace("_", "-").replace(" ", "-")
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
