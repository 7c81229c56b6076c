"""The fake API keeps the promises of the real one: the same client, asked the same things, gets the same answers."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from fleetctl.client import ApiError, Client, put_operation
from fleetctl.endpoint import parse_endpoint
from fleetd.api import schema
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.unitfile import UnitFile
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.fleetctl.fake_api import PAGE_SIZE, FakeApi, Served

A = UnitFile.parse("[Service]\nExecStart=/bin/a\nExecStart=\n")
B = UnitFile.parse("[Service]\nExecStart=/bin/b\n[X-Fleet]\nGlobal=true\n")


class RealApi:
    """fleetd's API over a store in memory, on a unix socket, in a thread of its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._served = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._served.wait(10)

    async def _serve(self) -> None:
        store = EmbeddedStore(":memory:", offload=inline)
        server = Server(Api(Registry(store), token_limit=PAGE_SIZE))
        await server.start([Address(path=self._path)], insecure=False)
        self._stopped = asyncio.Event()
        self._served.set()
        await self._stopped.wait()
        await server.stop()
        await store.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = str(tmp_path_factory.mktemp("s") / "fleet.sock")
    server = Served(FakeApi(), path) if request.param == "fake" else RealApi(path)
    yield Client(parse_endpoint(f"unix://{path}"), timeout_s=10)
    server.close()


def refusal(operation: Callable[[], None]) -> tuple[int, str]:
    with pytest.raises(ApiError) as refused:
        operation()
    return refused.value.code, str(refused.value)


def refusals(client: Client, operations: list[schema.UnitOperation]) -> dict[str, tuple[int, str]]:
    return {name: (error.code, str(error)) for name, error in client.carry_out(operations).items()}


def test_a_machine_that_is_not_there_cannot_be_given_up(client: Client) -> None:
    assert refusal(lambda: client.forget_machine("9" * 32)) == (404, "Error 404: machine does not exist")


def test_a_unit_comes_back_as_it_was_handed_over(client: Client) -> None:
    assert client.unit("a.service") is None
    client.put_unit(put_operation("a.service", A.options, "inactive"))
    unit = client.unit("a.service")
    assert unit is not None
    assert [(option.section, option.name, option.value) for option in unit.options] == [
        ("Service", "ExecStart", "/bin/a"),
        ("Service", "ExecStart", ""),
    ]
    assert (unit.name, unit.desired_state, unit.current_state, unit.machine_id) == (
        "a.service",
        "inactive",
        "inactive",
        "",
    )


def test_a_report_says_what_a_unit_is_before_anything_is_decided(client: Client) -> None:
    client.put_unit(put_operation("b.service", B.options, "launched"))
    client.put_unit(put_operation("a.service", A.options, "launched"))
    reports = client.reports(["a.service", "nope.service", "b.service"])
    assert [(name, r.target, r.hash, r.is_global, r.decided, r.machine) for name, r in sorted(reports.items())] == [
        ("a.service", "launched", A.hash, False, 0, ""),
        ("b.service", "launched", B.hash, True, 0, ""),
    ]


def test_every_operation_raises_the_generation_and_so_does_asking_again_for_a_start(client: Client) -> None:
    generations = []
    client.put_unit(put_operation("a.service", A.options, "inactive"))
    for target in ("loaded", "launched", "launched", "inactive"):
        client.set_target("a.service", target)
        generations.append(client.reports(["a.service"])["a.service"].generation)
    client.put_unit(put_operation("a.service", B.options, "launched"))
    report = client.reports(["a.service"])["a.service"]
    assert (report.hash, report.target) == (B.hash, "launched")
    assert sorted({*generations, report.generation}) == [*generations, report.generation]


def test_a_restart_is_an_operation_of_its_own_and_leaves_what_is_wanted(client: Client) -> None:
    client.put_unit(put_operation("a.service", A.options, "launched"))
    client.put_unit(put_operation("b.service", A.options, "inactive"))
    client.put_unit(put_operation("c.service", A.options, "loaded"))
    before = client.reports(["a.service", "b.service", "c.service"])
    refused = client.restart(["a.service", "b.service", "c.service", "none.service"])
    assert refused is not None
    why = 'unit "b.service" is inactive, so there is nothing to restart: start it instead'
    assert {name: (error.code, str(error)) for name, error in refused.items()} == {
        "b.service": (409, f"Error 409: {why}"),
        "none.service": (404, "Error 404: unit does not exist"),
    }
    after = client.reports(["a.service", "b.service", "c.service"])
    assert [report.target for report in after.values()] == ["launched", "inactive", "loaded"]
    raised = [name for name in before if after[name].generation > before[name].generation]
    assert raised == ["a.service", "c.service"]


def test_what_cannot_be_is_refused_alike(client: Client) -> None:
    missing = (409, "Error 409: unit does not exist and options field empty")
    assert refusal(lambda: client.set_target("a.service", "launched")) == missing
    template = (400, 'Error 400: cannot activate template "web@.service"')
    assert refusal(lambda: client.put_unit(put_operation("web@.service", A.options, "launched"))) == template
    name = (400, "Error 400: invalid character ' ' in unit name")
    assert refusal(lambda: client.put_unit(put_operation("a b.service", A.options, "launched"))) == name


def test_what_is_destroyed_is_gone_and_only_once(client: Client) -> None:
    client.put_unit(put_operation("a.service", A.options, "inactive"))
    for refused in ({}, {"a.service": (404, "Error 404: unit does not exist")}):
        assert refusals(client, [schema.UnitOperation("a.service", destroy=True)]) == refused
    assert (client.unit("a.service"), client.reports(["a.service"]), client.states()) == (None, {}, [])


@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE, 2 * PAGE_SIZE + 1])
def test_lists_come_whole_and_in_order_whatever_their_length(client: Client, count: int) -> None:
    names = [f"web@{number}.service" for number in range(count)]
    for name in reversed(names):
        client.put_unit(put_operation(name, A.options, "inactive"))
    assert [unit.name for unit in client.units()] == names


@pytest.mark.parametrize("name", ["a\\x2db.service", "a:b@c@d.service", "%2F.service", "also\udcff.service"])
def test_any_name_reaches_the_api_as_it_is_and_is_found_or_not(client: Client, name: str) -> None:
    valid = "%" not in name and "\udcff" not in name
    if valid:
        client.put_unit(put_operation(name, A.options, "inactive"))
    assert (client.unit(name) is not None) is valid
    assert bool(client.reports([name])) is valid


def test_more_names_than_a_url_holds_are_asked_for_in_parts(client: Client) -> None:
    names = [f"{'x' * 240}@{number}.service" for number in range(50)]
    for name in names[::10]:
        client.put_unit(put_operation(name, A.options, "inactive"))
    assert sorted(client.reports(names)) == sorted(names[::10])


def test_many_operations_are_carried_out_and_the_trouble_of_one_is_its_own(client: Client) -> None:
    client.put_unit(put_operation("old.service", A.options, "inactive"))
    client.put_unit(put_operation("gone.service", A.options, "inactive"))
    operations = [
        put_operation("new.service", A.options, "launched", only_new=True),
        put_operation("old.service", B.options, "launched", only_new=True),
        schema.UnitOperation("absent.service", desired_state="launched"),
        put_operation("web@.service", A.options, "launched"),
        schema.UnitOperation("gone.service", destroy=True),
    ]
    assert refusals(client, operations) == {
        "old.service": (412, 'Error 412: unit "old.service" exists already'),
        "absent.service": (409, "Error 409: unit does not exist and options field empty"),
        "web@.service": (400, 'Error 400: cannot activate template "web@.service"'),
    }
    reports = client.reports(["new.service", "old.service", "absent.service", "web@.service", "gone.service"])
    assert {name: (report.target, report.hash) for name, report in reports.items()} == {
        "new.service": ("launched", A.hash),
        "old.service": ("inactive", A.hash),
    }


def test_what_is_only_to_be_created_is_created_once_also_alone(client: Client) -> None:
    assert refusals(client, [put_operation("a.service", A.options, "inactive", only_new=True)]) == {}
    assert refusals(client, [put_operation("a.service", B.options, "launched", only_new=True)]) == {
        "a.service": (412, 'Error 412: unit "a.service" exists already')
    }
    assert client.reports(["a.service"])["a.service"].hash == A.hash


def test_more_operations_than_a_request_holds_are_carried_out_in_parts(client: Client) -> None:
    names = [f"web@{number}.service" for number in range(600)]
    assert client.carry_out([put_operation(name, A.options, "inactive") for name in names]) == {}
    large = UnitFile.parse("[Service]\n" + f"Environment={'x' * 2000}\n" * 100)
    others = [f"large@{number}.service" for number in range(12)]
    assert client.carry_out([put_operation(name, large.options, "inactive") for name in others]) == {}
    assert sorted(client.reports([*names, *others])) == sorted([*names, *others])
