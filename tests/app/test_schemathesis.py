"""The OpenAPI description against the program: whatever it allows to be sent is answered, and as it says.

Requests are made by schemathesis from the description alone, the same ones in every run, and sent to the whole application
on a real database with a host of dictionaries that answers: no server error at all, no status, media type, field or body
that is not described, and nothing taken that the description forbids.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from openapi_spec_validator import validate
from schemathesis import checks as known

from diycloud.db.engine import Database
from diycloud.db.sqlite import SqliteDatabase
from diycloud.web.openapi import document
from tests.app.notebook_site import Site
from tests.app.restful import World

known.load_all_checks()
CHECKS = [
    known.not_a_server_error,
    *(
        known.CHECKS.get_by_names(
            [
                "status_code_conformance",
                "content_type_conformance",
                "response_headers_conformance",
                "response_schema_conformance",
            ]
        )
    ),
]
NAMES = {"username": "ada", "name": "lab"}
"""What is there from the start: half of the requests are for these, or nothing would be found."""


def as_sent() -> Any:
    return json.loads(json.dumps(document()))


@pytest.fixture(scope="module")
def world(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with something of each kind."""
    path = Path(shutil.copyfile(empty_database, tmp_path_factory.mktemp("api") / "users.db"))
    database: Database = SqliteDatabase(path)
    world = Site(database)
    world.first_admin()
    for there, body in (
        ("users", {"username": "ada", "password": "hunter2 hunter2"}),
        ("users", {"username": "bob"}),
        ("groups", {"name": "lab", "members": ["ada"]}),
        ("domains", {"name": "lab"}),
        ("policies", {"name": "lab"}),
    ):
        assert world.ask("POST", f"/api/v1/{there}", json=body).status_code == 201
    yield world
    database.close()


schema = schemathesis.openapi.from_dict(as_sent())


def test_the_description_is_one() -> None:
    validate(as_sent())


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case, world: World) -> None:
    if crc32(repr((case.body, case.query)).encode("utf-8", "surrogatepass")) % 2:
        case.path_parameters.update({name: value for name, value in NAMES.items() if name in case.path_parameters})
    case.validate_response(send(world, case), checks=CHECKS)


def send(world: World, case: schemathesis.Case) -> httpx.Response:
    """Send a request as root."""
    sent = case.as_transport_kwargs(base_url="https://cloud.test")
    given = {name.lower(): str(value) for name, value in (sent.get("headers") or {}).items()}
    given.pop("authorization", None)  # made up: nobody would be signed in
    if crc32(repr(case.body).encode("utf-8", "surrogatepass")) % 8:
        given.pop("x-on-behalf-of", None)
    headers: Any = {name.encode(): value.encode("latin-1") for name, value in given.items()}
    body = sent.get("data")
    more = {"json": sent["json"]} if sent.get("json") is not None else {"content": body} if body is not None else {}
    return world.ask(sent["method"], sent["url"], params=sent.get("params"), headers=headers, **more)
