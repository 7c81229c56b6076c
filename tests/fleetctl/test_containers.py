"""Containers on the command line: files become services, and the cluster shows both."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from fleetctl.folder import BrokenFolder, read_folder
from fleetd.agent.answers import Answers
from fleetd.api import schema
from fleetd.api.http import render_error, render_json
from fleetd.model.machine import Capability
from fleetd.model.unitfile import UnitFile
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, ScriptedCluster
from tests.scripted_inspector import ScriptedInspector

D1, D2 = (f"reg.example/hello@sha256:{digit * 64}" for digit in "12")
HELLO = "[Unit]\nDescription=hello\n\n[Container]\nImage=reg.example/hello:1\nVolume=data.volume:/data\n"
DATA = "[Volume]\nLabel=a=b\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The working directory, with a container and its volume."""
    (tmp_path / "hello.container").write_text("# mine\n" + HELLO)
    (tmp_path / "data.volume").write_text(DATA)
    return tmp_path


@pytest.fixture
def registry(cluster: ScriptedCluster, background: BackgroundLoop) -> Iterator[ScriptedInspector]:
    """What M1 says of the registry: two images are there."""
    cluster.register(replace(M1, capabilities={**M1.capabilities, Capability.ANSWERS: True}))
    inspector = ScriptedInspector()
    inspector.images = {f"reg.example/hello:{tag}": image.partition("@")[2] for tag, image in (("1", D1), ("2", D2))}

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(Answers(M1.id, cluster.registry, inspector, lambda name: "").run())

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    task = background.do(start())
    yield inspector
    background.do(stop())


def test_a_container_is_submitted_as_the_service_that_it_makes(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    result = fleetctl("submit", "./hello.container")
    assert (result.status, result.stdout, result.stderr) == (0, "Unit hello.service inactive\n", "")
    text = cluster.units["hello.service"].text
    assert "ExecStart=/usr/bin/podman run --name systemd-%N" in text
    assert f"-v systemd-data:/data {D1}\n" in text
    assert fleetctl("submit", "hello.container").stderr == ""  # it is the same
    (files / "hello.container").write_text(HELLO.replace(":1", ":2"))
    assert "differs from local unit file hello.container" in fleetctl("submit", "hello.container").stderr
    assert fleetctl("submit", "--replace", "hello.container").status == 0
    assert f" {D2}\n" in cluster.units["hello.service"].text


def test_a_name_without_a_type_is_no_container_and_the_hint_says_so(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path
) -> None:
    result = fleetctl("start", "hello")
    assert (result.status, result.stdout) == (1, "")
    assert "unable to find Unit(hello.service) in Registry or on filesystem (hello.container is there" in result.stderr
    assert fleetctl("start", "other.container").stderr.count("is there") == 0


def test_an_instance_is_made_of_the_container_of_its_template(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "web@.container").write_text("[Container]\nImage=i\n")
    assert fleetctl("submit", "web@1.container").stdout == "Unit web@1.service inactive\n"
    assert "--name systemd-%p_%i " in cluster.units["web@1.service"].text


def test_drop_ins_beside_a_container_change_it(fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path) -> None:
    (files / "web@.container").write_text("[Container]\nImage=i\n")
    (files / "web@1.container").symlink_to("web@.container")
    for folder, name, text in (
        ("hello.container.d", "20-b.conf", "[Container]\nLabel=b=1 \\ \n  c=1\n"),
        ("hello.container.d", "10-a.conf", "[Container]\nLabel=b=0\n"),
        ("hello.container.d", "README", "not read"),
        ("data.volume.d", "10-a.conf", "[Volume]\nVolumeName=mine\n"),
        ("web@.container.d", "a.conf", "[Container]\nLabel=a=template\n"),
        ("web@.container.d", "b.conf", "[Container]\nLabel=b=template\n"),
        ("web@1.container.d", "a.conf", "[Container]\nLabel=a=instance\n"),
    ):
        (files / folder).mkdir(exist_ok=True)
        (files / folder / name).write_text(text)
    assert fleetctl("submit", "hello.container", "web@.container", "web@1.container").status == 0
    text = cluster.units["hello.service"].text
    assert "-v mine:/data --label b=1 --label c=1 reg.example" in text
    assert "--label a=template --label b=template i\n" in cluster.units["web@.service"].text
    assert "--label a=instance --label b=template i\n" in cluster.units["web@1.service"].text
    (files / "hello.container.d" / "30-c.conf").write_text("[Container]\nnothing\n")
    result = fleetctl("submit", "--replace", "hello.container")
    assert (result.status, result.stdout) == (1, "")
    assert "hello.container) from file: drop-in 30-c.conf: " in result.stderr
    assert "(line 2)" in result.stderr


def test_cat_shows_the_files_and_rendered_the_service(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path
) -> None:
    fleetctl("submit", "hello.container")
    for name in ("hello", "hello.container"):
        assert fleetctl("cat", name).stdout == f"{HELLO}\n# data.volume\n{DATA}"
    rendered = fleetctl("cat", "--rendered", "hello").stdout
    assert "ExecStart=/usr/bin/podman run" in rendered
    assert "X-Source" not in rendered
    cluster.add("plain.service", "[Service]\nExecStart=/bin/true\n")
    assert fleetctl("cat", "--rendered", "plain").stdout == fleetctl("cat", "plain").stdout


def test_edit_changes_the_container(
    fleetctl: Fleetctl,
    cluster: ScriptedCluster,
    files: Path,
    registry: ScriptedInspector,
    say: Callable[[bytes], None],
) -> None:
    fleetctl("submit", "hello.container")
    say(HELLO.replace("hello:1", "hello:2").encode())
    edited = fleetctl("edit", "--full", "--stdin", "hello")
    assert (edited.status, edited.stderr) == (0, "")
    assert fleetctl("cat", "hello").stdout == f"{HELLO.replace('hello:1', 'hello:2')}\n# data.volume\n{DATA}"
    assert f" {D2}\n" in cluster.units["hello.service"].text
    registry.images["reg.example/hello:2"] = D1.partition("@")[2]  # it keeps the image that it has
    say(HELLO.replace("hello:1", "hello:2").replace("Description=hello", "Description=you").encode())
    assert fleetctl("edit", "--full", "--stdin", "hello").status == 0
    assert f" {D2}\n" in cluster.units["hello.service"].text
    say(HELLO.replace("data.volume", "more.volume").encode())
    refused = fleetctl("edit", "--full", "--stdin", "hello")
    assert refused.status == 1
    assert "names more.volume, and there is no such file beside it" in refused.stderr
    say(b"")
    assert "has no options" in fleetctl("edit", "--full", "--stdin", "hello").stderr


def test_a_tag_that_moves_changes_nothing_until_update(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    fleetctl("start", "hello.container")
    registry.images["reg.example/hello:1"] = D2.partition("@")[2]
    for command in (["submit", "hello.container"], ["start", "--replace", "hello.container"]):
        result = fleetctl(*command)
        assert (result.status, result.stderr) == (0, "")
    assert fleetctl("diff", ".").stdout == ""
    assert fleetctl("apply", ".").status == 0
    assert f" {D1}\n" in cluster.units["hello.service"].text
    was, is_now = (image.partition("@")[2] for image in (D1, D2))
    said = f"Unit hello.service: reg.example/hello:1 was {was}, and is {is_now} now\n"
    assert fleetctl("update", "--plan", "hello") == Result(0, said, "")
    assert f" {D1}\n" in cluster.units["hello.service"].text
    updated = fleetctl("update", "hello.container")
    assert (updated.status, updated.stderr) == (0, "")
    assert updated.stdout.startswith(said)
    assert f" {D2}\n" in cluster.units["hello.service"].text
    again = fleetctl("update", "hello")
    assert again == Result(0, f"Unit hello.service: reg.example/hello:1 is {is_now} as before\n", "")


def test_apply_resolves_the_images_of_new_containers(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    (files / "plain.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert fleetctl("plan", "apply", ".").status == 0
    assert fleetctl("apply", ".").status == 0
    assert f" {D1}\n" in cluster.units["hello.service"].text


def test_an_export_has_the_files_of_containers_and_their_images(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    fleetctl("submit", "hello.container")
    (files / "all.jsonl").write_text(fleetctl("export").stdout)
    fleetctl("destroy", "hello.container")
    registry.images.clear()  # they are not asked for again
    assert fleetctl("import", "--yes", "all.jsonl").status == 0
    assert fleetctl("cat", "hello").stdout == f"{HELLO}\n# data.volume\n{DATA}"
    assert f" {D1}\n" in cluster.units["hello.service"].text


@pytest.mark.parametrize("request_", ["v1", "apply"])
def test_no_service_hides_behind_the_files_of_another(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector, request_: str
) -> None:
    """The command line shows files; what runs has to be what they make."""
    (files / "hello.container").write_text(HELLO.replace("reg.example/hello:1", D1))
    fleetctl("submit", "hello.container")
    text = cluster.units["hello.service"].text
    forged = UnitFile.parse(text.replace("podman run", "podman run --privileged"))
    (files / "folder").mkdir()
    (files / "folder" / "other.service").write_text(forged.text)
    command = ("submit", "folder/other.service") if request_ == "v1" else ("apply", "folder")
    result = fleetctl(*command)
    assert result.status == 1
    assert "its service is not what its container makes: submit the container" in result.stderr
    assert "other.service" not in cluster.units
    honest = UnitFile.parse(text)
    (files / "folder" / "other.service").write_text(honest.text)
    assert fleetctl(*command).status == 0


def test_an_image_that_the_registry_does_not_have_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    (files / "hello.container").write_text(HELLO.replace(":1", ":3"))
    for command in ("submit", "apply"):
        result = fleetctl(command, "hello.container" if command == "submit" else ".")
        assert (result.status, result.stdout, cluster.units) == (1, "", {})
        assert "the registry does not give the image reg.example/hello:3: " in result.stderr


@pytest.mark.parametrize(
    ("image", "why"),
    [("reg.example/hello:1", "no server that was asked has skopeo"), ("alpine", "names no image of a registry")],
)
def test_an_image_that_cannot_be_resolved_is_left_to_the_machines(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, image: str, why: str
) -> None:
    (files / "hello.container").write_text(f"[Container]\nImage={image}\n")
    result = fleetctl("submit", "hello.container")
    assert (result.status, result.stdout) == (0, "Unit hello.service inactive\n")
    assert f"warning: Unit hello.service: each machine resolves the image {image} by itself: " in result.stderr
    assert why in result.stderr
    refused = fleetctl("update", "hello")
    assert (refused.status, refused.stdout) == (1, "")
    assert why in refused.stderr


def test_what_others_have_written_reaches_no_terminal_as_it_is(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    fleetctl("submit", "hello.container")
    cluster.add("forged.service", cluster.units["hello.service"].text.replace(f"Image={D1}", "Image=i@\x1b]0;x\x07"))
    updated = fleetctl("update", "--plan", "forged")
    assert (updated.status, updated.stderr) == (0, "")
    registry.has_skopeo = False
    reason = render_json(schema.ResolvedImage("i", reason="m2: \x1b[2J"))
    cluster.intercept = lambda method, path: reason if path.endswith("/images") else None
    refused = fleetctl("update", "forged")
    (files / "hello.container").write_text(HELLO.replace(":1", ":2"))
    warned = fleetctl("submit", "--replace", "hello.container")
    assert "m2: \\x1b[2J" in refused.stderr
    assert "m2: \\x1b[2J" in warned.stderr
    assert "\x1b" not in updated.stdout + refused.stderr + warned.stderr


def test_an_older_fleetd_resolves_no_images(fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path) -> None:
    refusal = render_error(404, "not found")
    cluster.intercept = lambda method, path: refusal if path.endswith("/images") else None
    result = fleetctl("submit", "hello.container")
    assert result.status == 0
    assert "by itself: this fleetd is older, and cannot ask registries" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "Unit nowhere.service not found"),
        (["plain"], "it is no container"),
        (["fixed"], "its file names no image by a tag"),
        (["lost"], "the registry does not give the image reg.example/lost:1"),
        ([], "One unit must be provided"),
    ],
)
def test_update_says_why_it_cannot(
    fleetctl: Fleetctl,
    cluster: ScriptedCluster,
    registry: ScriptedInspector,
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
) -> None:
    cluster.add("plain.service", "[Service]\nExecStart=/bin/true\n")
    (tmp_path / "fixed.container").write_text(f"[Container]\nImage={D1}\n")
    (tmp_path / "lost.container").write_text("[Container]\nImage=reg.example/lost:1\n")
    registry.images["reg.example/lost:1"] = D1.partition("@")[2]
    assert fleetctl("submit", "fixed.container", "lost.container").stderr == ""
    del registry.images["reg.example/lost:1"]
    result = fleetctl("update", *arguments)
    assert (result.status, result.stdout) == (1, "")
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("bad.container", "[Container]\nImage=i\nAutoUpdate=registry\n", "bad.container: AutoUpdate= in [Container]"),
        ("bad.container", "[Container]\nno option\n", "unexpected newline encountered"),
        ("bad.container", "[Container]\nImage=i\n[X-Fleet]\nGlobal=yes\nMachineOf=a\n", "Global cannot be used with"),
        ("bad.container", "[Container]\nImage=i\nVolume=no.volume:/d\n", "names no.volume, and there is no such file"),
        ("bad.container", "[Container]\nImage=i\nVolume=broken.volume:/d\n", "cannot read broken.volume: "),
        ("bad.container", "[Container]\nImage=i\nVolume=folder.volume:/d\n", "it is a directory"),
        ("broken.volume", "[Volume\n", "unable to find end of section"),
    ],
)
def test_verify_says_what_is_wrong_with_a_container(
    bare_fleetctl: Fleetctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, complaint: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # which has no systemd-analyze
    (tmp_path / "broken.volume").write_text("[Volume\n")
    (tmp_path / "folder.volume").mkdir()
    (tmp_path / name).write_text(text)
    result = bare_fleetctl("verify", name)
    assert (result.status, result.stdout) == (1, "")
    assert complaint in result.stderr


def test_verify_checks_the_service_with_systemd(
    bare_fleetctl: Fleetctl, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = tmp_path_factory.mktemp("bin")
    script = '#!/bin/sh\nwhile read -r line; do echo "${5##*/}: $line" >&2; done < "$5"\n'
    (programs / "systemd-analyze").write_text(script)
    (programs / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    result = bare_fleetctl("verify", "hello.container", "data.volume")
    assert result.status == 0
    assert "hello.service: ExecStart=/usr/bin/podman run" in result.stderr
    assert "data-volume.service: ExecStart=/usr/bin/podman volume create --ignore" in result.stderr
    assert "X-Source" not in result.stderr


@pytest.mark.parametrize("name", ["data.volume", "./data.volume", "net.network"])
def test_a_volume_is_no_unit_of_its_own(fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, name: str) -> None:
    result = fleetctl("start", name)
    assert (result.status, cluster.operations) == (1, [])
    assert f"{name} is no unit of its own: each container that names" in result.stderr


def test_other_files_of_quadlets_make_no_unit(fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path) -> None:
    (files / "web.pod").write_text("[Pod]\n")
    result = fleetctl("start", "web.pod")
    assert (result.status, cluster.operations) == (1, [])
    assert "web.pod makes no unit: of Quadlet's files, fleet takes .container, .volume and .network" in result.stderr
    assert fleetctl("verify", "web.pod").stderr == result.stderr.removeprefix("Error creating units: ")
    assert "web.pod makes no unit: of Quadlet's" in fleetctl("diff", ".").stderr


def test_a_volume_of_a_folder_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "hello.container").write_text(HELLO)
    (tmp_path / "data.volume").write_text("[Volume]\n")
    assert "-v systemd-data:/data" in read_folder(str(tmp_path)).contents["hello.service"].text


def test_the_difference_of_containers_is_that_of_their_files(
    fleetctl: Fleetctl, cluster: ScriptedCluster, files: Path, registry: ScriptedInspector
) -> None:
    fleetctl("apply", "--set=a", ".")
    assert fleetctl("diff", "--set=a", ".").stdout == ""
    (files / "hello.container").write_text(HELLO.replace("Description=hello", "Description=you"))
    (files / "data.volume").write_text("[Volume]\nLabel=c=d\n")
    changed = fleetctl("diff", "--set=a", ".")
    assert (changed.status, changed.stdout) == (
        1,
        "--- cluster/data.volume\n+++ ./data.volume\n@@ -1,2 +1,2 @@\n [Volume]\n-Label=a=b\n+Label=c=d\n"
        "--- cluster/hello.container\n+++ ./hello.container\n@@ -1,5 +1,5 @@\n [Unit]\n-Description=hello\n"
        "+Description=you\n \n [Container]\n Image=reg.example/hello:1\n",
    )
    (files / "hello.container").unlink()
    (files / "data.volume").unlink()
    (files / "hello.service").write_text("[Service]\nExecStart=/bin/true\n")
    replaced = fleetctl("diff", "--set=a", ".").stdout
    assert "--- /dev/null\n+++ ./hello.service\n" in replaced
    assert "--- cluster/hello.container\n+++ /dev/null\n" in replaced


def test_a_folder_may_hold_containers_with_drop_ins(tmp_path: Path) -> None:
    for name, text in {
        "hello.container": HELLO,
        "data.volume": DATA,
        "hello.container.d/10-image.conf": "[Container]\nImage=reg.example/hello:2\n",
        "hello.service.d/10-limit.conf": "[Service]\nMemoryMax=1G\n",
        "web@.container": "[Container]\nImage=i\n",
        "plain.service": "[Service]\nExecStart=/bin/true\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "web@1.container").symlink_to("web@.container")
    found = read_folder(str(tmp_path))
    assert sorted(found.contents) == ["hello.service", "plain.service", "web@.service", "web@1.service"]
    assert "reg.example/hello:2\n" in found.contents["hello.service"].text
    assert [dropin.name for dropin in found.contents["hello.service"].dropins] == ["10-limit.conf"]
    assert found.contents["hello.service"].text == UnitFile.parse(found.contents["hello.service"].text).text
    assert found.warnings == ()


def test_faults_of_containers_are_named_with_file_and_line(tmp_path: Path) -> None:
    for name, text in {
        "a.container": "[Container]\nImage=i\nAutoUpdate=x\n",
        "b.container": "[Container]\nImage=i\n\n[X-Fleet]\nGlobal=yes\nMachineOf=a\n",
        "c.container": "[Container]\nImage=i\n",
        "c.service": "[Service]\nExecStart=/bin/true\n",
        "d d.container": "[Container]\nImage=i\n",
        "e.container.d/x.conf": "[Container]\nImage=i\n",
        "f.volume": DATA,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(BrokenFolder) as broken:
        read_folder(str(tmp_path))
    faults = [fault.removeprefix(f"{tmp_path}/") for fault in broken.value.faults]
    assert [fault for fault in faults if fault.startswith("a.container:3: AutoUpdate= in [Container] is refused")]
    assert "c.container: c.service stands in the folder, too: keep one of them" in faults
    assert [fault for fault in faults if fault.startswith("d d.container: invalid character ' '")]
    assert [fault for fault in faults if fault.startswith("e.container.d: the folder has no unit e.container")]
    assert "f.volume: no container of the folder names it: name it in one, or remove it" in faults
