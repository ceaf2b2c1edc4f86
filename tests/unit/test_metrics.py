"""What is counted, kept and told: declarations that hold, samples that are gaps and not noughts, the text that comes of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diycloud.actions.endings import KEPT_S, MOST_KEPT, Ending, Endings
from diycloud.actions.meter import READINGS_FAILED, Kind, Meter, Metric, Reader, Sample, total
from diycloud.auth.metrics import count_sessions
from diycloud.auth.passwords import Hasher
from diycloud.cli.metrics import scrape_config
from diycloud.config import MetricsSettings, Paths, Settings
from diycloud.core import metrics
from diycloud.core.prometheus import AGE_S, Prometheus
from diycloud.db.engine import Database
from diycloud.errors import Conflict, NotFound, Unavailable
from diycloud.notebooks import metrics as notebooks
from diycloud.notebooks.models import Event
from diycloud.users.metrics import RECONCILED_AT, RECONCILES, count_by_status, reconciling

EVERY = (*metrics.METRICS, *(metric for reader in metrics.READERS for metric in reader.metrics))
TRIED = Metric("diycloud_test_total", Kind.COUNTER, "Tried.", ("how",), ("well", "badly"))
TOOK = Metric("diycloud_test_seconds", Kind.HISTOGRAM, "Took.", buckets=(1.0, 5.0))
STANDS = Metric("diycloud_stands", Kind.GAUGE, "Stands.", ("where",))


def values(text: bytes) -> dict[str, float]:
    """Return `name{label=value,…}` → value, as a parser of the library's own reads the text."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def page(meter: Meter, services: Any = None) -> dict[str, float]:
    return values(asyncio.run(meter.page(services)))


def kept(*readers: Reader) -> Prometheus:
    return Prometheus((TRIED, TOOK, READINGS_FAILED), readers)


# -- declarations


@pytest.mark.parametrize("metric", EVERY, ids=[metric.name for metric in EVERY])
def test_a_metric_is_declared_as_prometheus_has_it(metric: Metric) -> None:
    assert re.fullmatch(r"(diycloud|process)_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.help.endswith(".") and len(metric.help) < 160
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets) and list(metric.buckets) == sorted(metric.buckets)
    assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")
    assert not metric.values or len(metric.labels) == 1
    assert "user" not in metric.labels or "metrics.per_user" in metric.help


def test_every_name_is_there_once() -> None:
    names = [metric.name for metric in EVERY]
    assert len(names) == len(set(names)) > 20
    assert len({reader.name for reader in metrics.READERS}) == len(metrics.READERS)


def test_the_library_is_loaded_by_the_server_alone() -> None:
    program = "import sys, diycloud.core.handlers, diycloud.web.app; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


# -- what is kept


def test_what_happens_is_told_and_what_did_not_yet_is_nought() -> None:
    meter = kept()
    meter.count(TRIED, "well")
    meter.count(TRIED, "well", by=2)
    meter.time(TOOK, 0.5)
    meter.time(TOOK, 3)
    found = page(meter)
    assert found["diycloud_test_total{how=well}"] == 3 and found["diycloud_test_total{how=badly}"] == 0
    assert (found["diycloud_test_seconds_count"], found["diycloud_test_seconds_sum"]) == (2, 3.5)
    assert found["diycloud_test_seconds_bucket{le=1.0}"] == 1 and found["diycloud_test_seconds_bucket{le=5.0}"] == 2
    assert not [name for name in found if name.endswith("_created")]


def test_two_meters_share_nothing() -> None:
    one, other = kept(), kept()
    one.count(TRIED, "well")
    assert page(other)["diycloud_test_total{how=well}"] == 0


def test_a_meter_that_keeps_nothing_takes_everything_and_tells_nothing() -> None:
    meter = Meter()
    meter.count(TRIED, "well")
    meter.time(TOOK, 1)
    meter.set(STANDS, 1, "here")
    meter.child(TRIED, "well").inc()
    meter.child(TOOK).observe(1)
    with pytest.raises(NotFound, match="Nothing is counted"):
        page(meter)


def test_the_settings_say_whether_anything_is_kept() -> None:
    assert metrics.make_meter(Settings()).keeps
    assert not metrics.make_meter(Settings(metrics=MetricsSettings(enabled=False))).keeps


# -- what is read


def reader(name: str, answer: Any) -> Reader:
    async def read(services: Any) -> Iterable[Sample]:
        if isinstance(answer, Exception):
            raise answer
        found: Iterable[Sample] = answer() if callable(answer) else answer
        return found

    return Reader(name, (STANDS,), read)


@pytest.mark.parametrize("error", [Unavailable("away"), TimeoutError(), RuntimeError("broken")], ids=repr)
def test_what_cannot_be_read_is_a_gap_and_is_counted(error: Exception) -> None:
    other = Metric("diycloud_other", Kind.GAUGE, "Other.")
    found = page(kept(reader("one", error), reader("two", [Sample(other, 4)])))
    assert found["diycloud_other"] == 4
    assert not [name for name in found if name.startswith("diycloud_stands")]
    assert found["diycloud_metrics_readings_failed_total{reading=one}"] == 1


def test_what_does_not_answer_in_time_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diycloud.core.prometheus.READ_S", 0.05)

    async def hang(services: Any) -> Iterable[Sample]:
        await asyncio.sleep(60)
        return []

    found = page(kept(Reader("hangs", (STANDS,), hang)))
    assert found["diycloud_metrics_readings_failed_total{reading=hangs}"] == 1


def test_many_who_ask_at_once_are_one_reading() -> None:
    asked = []
    meter = kept(reader("one", lambda: asked.append(1) or [Sample(STANDS, len(asked), ("here",))]))

    async def crowd() -> list[bytes]:
        return await asyncio.gather(*(meter.page(None) for _ in range(20)))

    told = asyncio.run(crowd())
    assert len(asked) == 1 and all(values(text)["diycloud_stands{where=here}"] == 1 for text in told)
    meter._at -= AGE_S + 1
    assert page(meter)["diycloud_stands{where=here}"] == 2


def test_labels_may_hold_anything() -> None:
    odd = 'a"b\\c\nd'
    text = asyncio.run(kept(reader("one", [Sample(STANDS, 1, (odd,))])).page(None))
    (family,) = [f for f in text_string_to_metric_families(text.decode()) if f.name == "diycloud_stands"]
    assert family.samples[0].labels == {"where": odd}


def test_samples_of_the_same_labels_add_up() -> None:
    parts = [Sample(STANDS, 1, ("here",)), Sample(STANDS, 2, ("there",)), Sample(STANDS, 3, ("here",))]
    assert total(parts) == [Sample(STANDS, 4, ("here",)), Sample(STANDS, 2, ("there",))]


# -- users, sessions, hashes, the agent


def test_users_and_sessions_are_counted_in_the_database(database: Database) -> None:
    people = [(1, "active"), (2, "active"), (3, "inactive")]

    def fill(connection: Any) -> None:
        for number, status in people:
            connection.exec_driver_sql(
                f"INSERT INTO users (id, username, password_hash, status) VALUES ({number}, 'u{number}', '-', '{status}')"
            )
        for number, (seen, ends, kind) in enumerate(
            [(1000, 5000, "browser"), (1000, 900, "browser"), (100, 5000, "browser"), (1000, 5000, "api")]
        ):
            connection.exec_driver_sql(
                "INSERT INTO sessions (token_hash, user_id, kind, csrf, created_at, last_seen, expires_at, address,"
                f" user_agent) VALUES ('{number}', 1, '{kind}', '', 0, {seen}, {ends}, '', '')"
            )

    asyncio.run(database.write(fill))
    assert asyncio.run(database.read_long(count_by_status)) == {"active": 2, "inactive": 1}
    assert asyncio.run(database.read_long(count_sessions, 1000, 600)) == {"browser": 1, "api": 1}
    assert asyncio.run(database.read_long(metrics.bytes_of)) > 50_000


def test_hashes_that_wait_are_told() -> None:
    hasher = Hasher(threads=1)

    async def crowd() -> int:
        work = [asyncio.create_task(hasher.hash("correct horse battery")) for _ in range(5)]
        await asyncio.sleep(0)
        waiting = hasher.queued
        await asyncio.gather(*work)
        return waiting

    assert (asyncio.run(crowd()), hasher.queued) == (5, 0)
    hasher.close()


def test_a_comparison_with_the_host_counts_by_how_it_ends() -> None:
    meter = Prometheus((RECONCILES, RECONCILED_AT, metrics.users.RECONCILE_SECONDS), ())
    services: Any = SimpleNamespace(meter=meter)
    with pytest.raises(Unavailable), reconciling(services):
        raise Unavailable("away")
    assert page(meter)["diycloud_reconcile_last_success_timestamp_seconds"] == 0
    with reconciling(services):
        pass
    found = page(meter)
    assert (
        found["diycloud_reconcile_runs_total{outcome=done}"]
        == found["diycloud_reconcile_runs_total{outcome=failed}"]
        == 1
    )
    assert found["diycloud_reconcile_last_success_timestamp_seconds"] > 1.7e9


def test_the_agents_answers_are_timed_by_message_and_outcome() -> None:
    class Agent:
        async def call(self, message: Any, answer: Any, *, deadline: float = 60.0) -> Any:
            if isinstance(message, Exception):
                raise message
            return "pong"

        async def sync(self, wishes: Any) -> Any:
            raise Unavailable("away")

    meter = Prometheus((metrics.AGENT_SECONDS,), ())
    inner: Any = Agent()
    agent = metrics.WatchedAgent(inner, meter)
    assert asyncio.run(agent.call(metrics.wire.Ping(), str)) == "pong"
    for error in (Conflict("no"), Unavailable("away")):
        error.__struct_config__ = SimpleNamespace(tag="stop")  # type: ignore[attr-defined]
        with pytest.raises(type(error)):
            asyncio.run(agent.call(error, str))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        asyncio.run(agent.sync([]))
    found = {key: value for key, value in page(meter).items() if "_count" in key}
    assert found == {
        f"diycloud_agent_call_seconds_count{{message={message},outcome={outcome}}}": 1
        for message, outcome in (("ping", "answered"), ("stop", "refused"), ("stop", "away"), ("sync", "away"))
    }


# -- notebooks


@pytest.mark.parametrize(
    ("kind", "cause", "asked", "name"),
    [
        ("started", "", "", "diycloud_notebook_starts_total{outcome=started}"),
        ("failed", "start", "", "diycloud_notebook_starts_total{outcome=failed}"),
        ("failed", "memory", "", "diycloud_notebook_stops_total{reason=memory}"),
        ("failed", "", "", "diycloud_notebook_stops_total{reason=failed}"),
        ("stopped", "", "", "diycloud_notebook_stops_total{reason=owner}"),
        ("stopped", "", "administrator", "diycloud_notebook_stops_total{reason=administrator}"),
        ("stopped", "", "shut-out", "diycloud_notebook_stops_total{reason=shut-out}"),
        ("stopped", "idle", "", "diycloud_notebook_stops_total{reason=idle}"),
        ("stopped", "age", "", "diycloud_notebook_stops_total{reason=age}"),
    ],
)
def test_what_the_hub_tells_counts_once(kind: Any, cause: Any, asked: str, name: str) -> None:
    meter = Prometheus(notebooks.COUNTED, ())
    before = page(meter)
    notebooks.count(meter, Event(kind=kind, name="ada", at=1.0, seconds=1.5, cause=cause), asked=asked)
    after = page(meter)
    moved = {key for key in after if after[key] != before.get(key) and "_seconds" not in key and "process" not in key}
    moved -= {key for key in moved if key.startswith("python")}
    assert moved == {name} and after[name] == 1
    assert after["diycloud_notebook_start_seconds_count"] == (kind == "started")


def test_who_asked_for_an_end_is_known_until_it_is_told_and_not_for_ever() -> None:
    now = [0.0]
    endings = Endings(lambda: now[0])
    endings.note("ada", "", "boss", "administrator")
    endings.note("ada", None, "system", "shut-out")
    assert endings.find("ada", "") == Ending("boss", "administrator")
    assert endings.find("ada", "") == endings.find("ada", "big") == Ending("system", "shut-out")
    assert endings.find("bob", "") is None
    now[0] = KEPT_S + 1
    assert endings.find("ada", "big") is None
    for number in range(MOST_KEPT + 5):
        endings.note(f"u{number}", "", "boss", "administrator")
    assert len(endings._asked) == MOST_KEPT and endings.find("u0", "") is None


# -- the section for Prometheus


def test_the_section_for_prometheus_is_yaml_with_this_servers_address(tmp_path: Any) -> None:
    import yaml

    paths = Paths(str(tmp_path))
    paths.config_dir.mkdir(parents=True)
    paths.config.write_text("server:\n  host_name: 2001:db8::7\n  https_port: 8443\n")
    (job,) = yaml.safe_load(scrape_config(str(tmp_path), '/etc/a "b".token', ""))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["[2001:db8::7]:8443"]}]
    assert job["authorization"] == {"credentials_file": '/etc/a "b".token'} and job["scheme"] == "https"
    assert job["tls_config"] == {"ca_file": str(paths.certificates / "ca.crt")}
