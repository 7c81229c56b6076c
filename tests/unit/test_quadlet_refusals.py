"""What no service can be made of, and values that would be more than one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.names import service_name
from fleetd.model.quadlet.source import sources_of
from fleetd.model.quadlet.translation import translate
from fleetd.model.unitfile import UnitFileError, check_options, parse_unit_file
from tests.unit.quadlet_units import IMAGE, convert, values

REFUSED = [
    ("[Container]\n", "names no image: add Image="),
    ("[Service]\nRestart=always\n", "names no image"),
    ("[Container]\nImage=x.image\n", "Image=x.image names another file"),
    ("[Container]\nImage=i\nAutoUpdate=registry\n", "AutoUpdate= in .Container. is refused: it would change the image"),
    ("[Container]\nImage=i\nServiceName=x\n", "the unit is named like its file: rename the file"),
    ("[Container]\nImage=i\nStartWithPod=yes\n", "fleet has no pods"),
    ("[Container]\nImage=i\nRootfs=/x\n", "both Image= and Rootfs=: remove one"),
    ("[Container]\nRootfs=x\n", "Rootfs=x is a path that is not absolute"),
    ("[Container]\nImage=i\nReloadCmd=a\nReloadSignal=HUP\n", "both ReloadCmd= and ReloadSignal=: remove one"),
    ("[Container]\nImage=i\nExposeHostPort=http\n", "ExposeHostPort=http is no port: write PORT"),
    ("[Container]\nImage=i\nAddDevice='-/dev/a b'\n", "AddDevice=-/dev/a b is no path that a shell takes"),
    ("[Container]\nImage=i\nEnvironmentFile=-a\n", "EnvironmentFile=a is a path that is not absolute"),
    ("[Container]\nImage=i\nUserNS=auto\nRemapUsers=auto\n", "RemapUsers= does not go with UserNS="),
    ("[Container]\nImage=i\nRemapUsers=other\n", "RemapUsers=other is not possible: write UserNS="),
    ("[Container]\nImage=i\nRemapUid=1\n", "RemapUid= needs RemapUsers=: write UIDMap="),
    ("[Container]\nImage=i\nRemapGid=1\n", "RemapGid= needs RemapUsers=: write GIDMap="),
    ("[Container]\nImage=i\nRemapUsers=keep-id\nRemapUid=1 2\n", "takes one RemapUid= and one RemapGid="),
    ("[Container]\nImage=i\nRemapUsers=auto\nRemapUidSize=x\n", "RemapUidSize=x is no number"),
    ("[Container]\nImage=i\nMount=/a:/b:ro\n", "Mount=/a:/b:ro has no options of a mount: write Volume=/a:/b:ro"),
    ("[Container]\nImage=i\nMount=type=image,destination=/a\n", "a mount of type image needs its source"),
    ("[Container]\nImage=i\nPod=x.pod\n", "fleet has no pods"),
    ("[Container]\nImage=i\npublishport=1\n", "it is spelt PublishPort="),
    ("[Container]\nImage=i\nPublishPorts=1\n", "fleet does not know it: perhaps PublishPort= is meant"),
    ("[Container]\nImage=i\nNonsense=1\n", "fleet does not know it: look at its spelling"),
    (
        "[Container]\nImage=i\nNonsense=1\n",
        "hello.container: Nonsense= in .Container. is refused: fleet does not know it",
    ),
    ("[Container]\nImage=i\n[Quadlet]\nX=1\n", "X= in .Quadlet. is refused"),
    ("[Container]\nImage=i\nReadOnly=maybe\n", "ReadOnly=maybe is neither yes nor no"),
    ("[Container]\nImage=i\nGroup=g\n", "Group=g needs User="),
    ("[Container]\nImage=i\nExec=\\q\n", 'Exec=: there is no escape "..q*"'),
    ("[Container]\nImage=i\nEnvironmentFile=a\n", "EnvironmentFile=a is a path that is not absolute"),
    ("[Container]\nImage=i\nEnvironmentFile=%%a\n", "EnvironmentFile=%%a is a path that is not absolute"),
    ("[Container]\nImage=i\nVolume=./a:/b\n", "Volume=./a is a path that is not absolute"),
    ("[Container]\nImage=i\nVolume=a.volume:/b\n", 'names a.volume, and there is no such file beside it: .*".volume"'),
    ("[Container]\nImage=i\nNetwork=a.network\n", "names a.network, and there is no such file beside it"),
    ("[Container]\nImage=i\nNetwork=a.container\n", "containers of two units are on different machines"),
    ("[Container]\nImage=i\nMount=type=image,source=a.image,dst=/d\n", "names another file: name the image"),
    ("[Container]\nImage=i\nMount=type=bind,source,dst=/d\n", "source has no value"),
    ("[Container]\nImage=i\nMount='type=bind,\"x'\n", "cannot be read"),
    ("[Container]\nImage=i\n[Service]\nType=simple\n", "Type=simple is not possible for a container"),
    ("[Container]\nImage=i\n[Service]\nKillMode=none\n", "KillMode=none would leave parts"),
    ("[Container]\nImage=i\n[Service]\nExecStart=/bin/true\n", "ExecStart= is made of .Container."),
    (
        "[Container]\nImage=i\n[Service]\nUser=web\n",
        "User=web is not possible .* since podman runs as root: .*User= in",
    ),
    ("[Container]\nImage=i\n[Service]\nDynamicUser=Yes\n", "DynamicUser=Yes is not possible for a container"),
    ("[Unit]\nAfter=x.pod\n[Container]\nImage=i\n", "After=x.pod: fleet has no such units"),
]


@pytest.mark.parametrize("line", ["User=root", "User=0", "User=", "DynamicUser=no", "Group=adm"])
def test_a_service_whose_podman_stays_root_may_say_so(line: str) -> None:
    options = convert(f"[Container]\n{IMAGE}\n[Service]\n{line}\n")
    key, _, value = line.partition("=")
    assert values(options, key) == [value]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_no_service_can_be_made_of_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(InvalidQuadlet, match=message):
        convert(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Volume]\nAutoUpdate=x\n", "data.volume: AutoUpdate= in .Volume. is refused"),
        ("[Volume]\nDriver=image\n", "Driver=image needs an image"),
        ("[Volume]\nDriver=image\nImage=a.build\n", "Image=a.build names another file"),
        ("[Volume]\nType=ext4\n", "Type= needs Device="),
        ("[Volume]\nUID=me\n", "UID=me is no number"),
        ("[Volume]\nUser=me\n", "User=me is no number"),
        ("[Volume]\nGroup=4294967296\n", "Group=4294967296 is no number"),
    ],
)
def test_what_no_volume_can_be_made_of_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidQuadlet, match=message):
        convert(text, "data.volume")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Network]\nGateway=1.1.1.1\n", "more Gateway= than Subnet="),
        ("[Network]\nSubnet=1.0.0.0/8\nIPRange=a\nIPRange=b\n", "more IPRange= than Subnet="),
    ],
)
def test_what_no_network_can_be_made_of_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidQuadlet, match=message):
        convert(text, "net.network")


@pytest.mark.parametrize(
    ("file", "unit"),
    [
        ("hello.container", "hello.service"),
        ("hello@.container", "hello@.service"),
        ("hello@1.container", "hello@1.service"),
        ("data.volume", "data-volume.service"),
        ("net.network", "net-network.service"),
    ],
)
def test_a_unit_is_named_like_its_file(file: str, unit: str) -> None:
    assert service_name(file) == unit


BROKEN_NAME = "Mount='type=volume,\"source=x]\\n[Service]\\nExecStartPre=reboot\\n[a.volume\",dst=d'"
INJECTED = "Mount='type=bind,\"source=/x\\n[Service]\\nExecStartPre=/bin/evil\",dst=/d'"


@pytest.mark.parametrize(
    "text",
    [
        f"[Container]\n{IMAGE}\n{INJECTED}\n",
        f"[Container]\n{IMAGE}\n{BROKEN_NAME}\n",
        "[Container]\nImage=--privileged\nExec=i\n",
    ],
)
def test_no_value_becomes_a_line_of_the_unit_or_an_option_of_podman(text: str) -> None:
    with pytest.raises(InvalidQuadlet, match=r"cannot be written|begins with"):
        translate("hello.container", parse_unit_file(text), lambda name: ())


def test_a_refusal_shows_what_a_terminal_would_interpret() -> None:
    with pytest.raises(InvalidQuadlet, match=r"hello.container: \\x1b\[2J= in \[Container\] is refused"):
        convert("[Container]\n\x1b[2J=1\n")


KEYS = st.sampled_from(
    ["Image", "Exec", "Environment", "Volume", "Mount", "Network", "ReadOnly", "HealthCmd", "User", "Secret", "Foo"]
)
LINES = st.lists(st.tuples(KEYS, st.text(max_size=30)).map("=".join), max_size=8)


@given(LINES)
def test_each_text_makes_a_unit_or_a_clear_refusal(lines: list[str]) -> None:
    try:
        options = parse_unit_file("[Container]\nImage=i\n" + "\n".join(lines))
        service = translate("a.container", options, lambda name: ())
    except (UnitFileError, InvalidQuadlet):  # and nothing else
        return
    assert len(values(tuple(service), "ExecStart")) == 1
    if "\0" not in "".join(lines):
        check_options(service)
    assert sources_of(service)[0].name == "a.container"
