"""The prepare-data flow: a data set, prepared once, with its data card on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from flows.config.parameters import DataName
from flows.lab.settings import Settings


@task(name="compose", cache_policy=NO_CACHE, persist_result=False)
def compose(overrides: list[str]) -> dict[str, Any]:
    """Judge the request; returns the data set's section of the configuration and the folder it is or will be prepared in."""
    from flows.parts import data_section, prepared_folder

    section = data_section(overrides)
    return {"section": section, "folder": str(prepared_folder(section, Settings.load()))}


def _fingerprint(_: TaskRunContext, arguments: dict[str, Any]) -> str:
    """The cache key: the folder's name is the fingerprint of all inputs."""
    folder = Path(arguments["folder"])
    return f"prepared-{folder.parent.name}-{folder.name}"


@materialize("lab://data", name="prepare", cache_key_fn=_fingerprint, persist_result=True, retries=2, retry_delay_seconds=2)
def prepare(section: dict[str, Any], folder: str) -> dict[str, Any]:  # noqa: ARG001 — `folder` is the cache key
    """Fetch and prepare; returns the data card."""
    from flows.parts import prepare_data as prepare_now

    logger = get_run_logger()
    return dict(prepare_now({"data": section}, Settings.load(), tell=lambda line: logger.info(line["text"])).card)


@flow(name="prepare-data", flow_run_name="{data}", persist_result=False)
def prepare_data_flow(data: DataName = "mnist", overrides: list[str] = []) -> dict[str, Any]:  # noqa: B006 — never changed; the form needs a list
    """Prepare a data set once: fetch, verify, split, store under its fingerprint.

    Args:
        data: Which data set.
        overrides: Its settings, one an item, such as data.split_seed=1.
    """
    request = compose([f"data={data}", *overrides])
    name = Path(request["folder"]).parent.name
    asset = Asset(key=f"lab://data/{name}", properties=AssetProperties(name=name, description=f"prepared in {request['folder']}"))
    is_there = (Path(request["folder"]) / "card.json").exists()
    card = prepare.with_options(assets=[asset], refresh_cache=not is_there)(request["section"], request["folder"])
    create_markdown_artifact(_page(card), key="data-card", description=f"Data card of {name}")
    return card


def _page(card: dict[str, Any]) -> str:
    rows = "\n".join(f"| {split} | {count['examples']} |" for split, count in card["counts"].items())
    return (
        f"## {card['name']}\n\nSource: {card['source']}\n\nLicence: {card['licence']}\n\nFingerprint: `{card['fingerprint']}`\n\n"
        f"| split | examples |\n|---|---|\n{rows}\n"
    )
