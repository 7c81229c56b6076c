"""Containers, volumes and networks: the services that are made of them.

The rules are those of podman-systemd.unit(5) of podman 5, and of podman-run(1) for what an option takes.
"""

import shlex
import subprocess

import pytest

from fleetd.model.admission import refuse_made
from fleetd.model.quadlet.keys import (
    BOOLEANS,
    HEALTH,
    LISTS,
    PAIRS,
    SECURITY_FLAGS,
    SECURITY_PATHS,
    SECURITY_VALUES,
    STRINGS,
)
from fleetd.model.quadlet.source import SourceFile, parse_quadlet_file, resolved_image, sources_of, without_sources
from fleetd.model.quadlet.translation import image_to_resolve, refuse_service, translate, with_image
from fleetd.model.unitfile import check_options, parse_unit_file, render_unit_file
from tests.unit.quadlet_units import IMAGE, RESOURCES_OF_TEMPLATE, arguments, container, convert, has, values


def test_a_container_becomes_a_service_that_systemd_is_notified_of() -> None:
    options = container()
    assert render_unit_file(options) == (
        "[Unit]\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n"
        "RequiresMountsFor=%t/containers\n"
        "\n"
        "[Service]\n"
        "ExecStartPre=-/bin/rm -f %t/%N.cid\n"
        "Environment=PODMAN_SYSTEMD_UNIT=%n\n"
        "KillMode=mixed\n"
        "ExecStop=/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid\n"
        "ExecStopPost=-/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid\n"
        "Delegate=yes\n"
        "Type=notify\n"
        "NotifyAccess=all\n"
        "SyslogIdentifier=%N\n"
        "ExecStart=/usr/bin/podman run --name systemd-%N --cidfile=%t/%N.cid --replace --rm --cgroups=split "
        "--sdnotify=conmon -d reg.example/hello:1\n"
    )


def test_what_systemd_and_fleet_read_stays() -> None:
    text = (
        "[Unit]\nDescription=x\n[Container]\nImage=i\n[Service]\nRestart=always\nSyslogIdentifier=me\n"
        "NotifyAccess=main\nKillMode=control-group\n[Install]\nWantedBy=a.target\n[X-Fleet]\nGlobal=true\n"
    )
    options = convert(text)
    assert values(options, "Description", "Unit") == ["x"]
    assert values(options, "Restart") == ["always"]
    assert values(options, "SyslogIdentifier") == ["me"]
    assert values(options, "NotifyAccess") == ["all"]
    assert values(options, "KillMode") == ["control-group"]
    assert values(options, "WantedBy", "Install") == ["a.target"]
    assert values(options, "Global", "X-Fleet") == ["true"]


def test_a_oneshot_is_waited_for() -> None:
    options = convert("[Container]\nImage=i\n[Service]\nType=oneshot\n")
    assert values(options, "Type") == ["oneshot"]
    assert values(options, "NotifyAccess") == []
    assert arguments(options)[-2:] == ["--cgroups=split", "i"]


def test_dependencies_on_containers_are_those_on_their_services() -> None:
    text = "[Unit]\nAfter=db.container data.volume a.service\nRequires=n.network\nWants=b.service\nBefore=\n"
    options = convert(text + "[Container]\nImage=i\n[Quadlet]\nDefaultDependencies=no\n")
    assert values(options, "After", "Unit") == ["db.service a.service"]
    assert values(options, "Requires", "Unit") == []
    assert values(options, "Wants", "Unit") == ["b.service"]
    assert values(options, "Before", "Unit") == [""]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["ContainerName=web-%i"], ["--name", "web-%i", "--cidfile=%t/%N.cid"]),
        (["User=u"], ["--user", "u"]),
        (["User=u", "Group=g"], ["--user", "u:g"]),
        (["ReadOnly=yes"], ["--read-only"]),
        (["ReadOnly=no"], ["--read-only=false"]),
        (["RunInit=true", "RunInit="], ["--cgroups=split", "--sdnotify=conmon"]),
        (["EnvironmentHost=on"], ["--env-host"]),
        (["NoNewPrivileges=1"], ["--security-opt=no-new-privileges"]),
        (
            ["DropCapability=ALL", "AddCapability=CAP_A CAP_B"],
            ["--cap-drop", "all", "--cap-add", "cap_a", "--cap-add", "cap_b"],
        ),
        (["AddCapability=CAP_A \\", "  CAP_B"], ["--cap-add", "cap_a", "--cap-add", "cap_b"]),
        (["Tmpfs=/a", "Tmpfs=", "Tmpfs=/b:size=1M"], ["--cgroups=split", "--tmpfs", "/b:size=1M"]),
        (["PublishPort=8080:80", "PublishPort=[::]:1:1/udp"], ["--publish", "8080:80", "--publish", "[::]:1:1/udp"]),
        (["Network=host"], ["--network", "host"]),
        (["Network=pod:ip=1.2.3.4"], ["--network", "pod:ip=1.2.3.4"]),
        (["Environment=B=1 'A=x y'", 'Environment="B=2" C'], ["--env", "A=x y", "--env", "B=2", "--env", "C"]),
        (["Label=a=1"], ["--label", "a=1"]),
        (["EnvironmentFile=/etc/a %h/b"], ["--env-file", "/etc/a", "--env-file", "%h/b"]),
        (["Secret=s,type=env t"], ["--secret", "s,type=env", "--secret", "t"]),
        (["Volume=/data"], ["-v", "/data"]),
        (["Volume=:/data:ro"], ["-v", "/data"]),
        (["Volume=/a:/b:ro,z"], ["-v", "/a:/b:ro,z"]),
        (["Volume=named:/b"], ["-v", "named:/b"]),
        (["Mount=type=tmpfs,destination=/t"], ["--mount", "type=tmpfs,destination=/t"]),
        (["Mount=src=v,dst=/d"], ["--mount", "type=volume,source=v,dst=/d"]),
        (["Mount=type=volume,dst=/d"], ["--mount", "type=volume,dst=/d"]),
        (['Mount=type=bind,\\"source=/a,b\\",dst=/d'], ["--mount", 'type=bind,"source=/a,b",dst=/d']),
        (["HealthCmd=curl -f x || exit 1"], ["--health-cmd", "curl -f x || exit 1"]),
        (['HealthCmd="quoted as a whole"'], ["--health-cmd", "quoted as a whole"]),
        (["PodmanArgs=--foo 'a b'", "PodmanArgs=--bar"], ["--foo", "a b", "--bar", "reg.example/hello:1"]),
        (["Entrypoint=/bin/a -b"], ["--entrypoint", "/bin/a -b"]),
        (["Entrypoint=/bin/a", "Entrypoint="], ["--entrypoint", ""]),
        (["LogDriver=k8s-file", 'LogOpt=tag="x y" max-size=1m'], ["--log-driver", "k8s-file", "--log-opt", "tag=x y"]),
        (["CgroupsMode=no-conmon"], ["--rm", "--cgroups", "no-conmon"]),
        (["Notify=yes"], ["--sdnotify=container", "-d"]),
        (["Notify=no"], ["--sdnotify=conmon", "-d"]),
        (["Notify=Healthy"], ["--sdnotify=healthy", "-d"]),
        (["AddDevice=/dev/a /dev/b:r", "AddDevice=/dev/c"], ["--device", "/dev/b:r", "--device", "/dev/c"]),
        (["Sysctl=net.a=B net.c=1"], ["--sysctl", "net.a=B", "--sysctl", "net.c=1"]),
        (["VolatileTmp=yes"], ["--tmpfs", "/tmp:rw,size=512M,mode=1777"]),
        (["VolatileTmp=yes", "ReadOnly=yes"], ["--read-only", "reg.example/hello:1"]),
        (["ExposeHostPort=80 ", "ExposeHostPort=90-91/udp"], ["--expose", "80", "--expose", "90-91/udp"]),
        (["EnvironmentFile=-/etc/a"], ["--env-file", "-/etc/a"]),
        (["UserNS=keep-id:uid=1", "UIDMap=0:1:2"], ["--userns", "keep-id:uid=1", "--uidmap", "0:1:2"]),
        (["GIDMap=0:1:2 3:4:5"], ["--gidmap", "0:1:2", "--gidmap", "3:4:5"]),
        (["SubUIDMap=a", "SubGIDMap=b"], ["--subuidname", "a", "--subgidname", "b"]),
        (["RemapUsers=manual", "RemapUid=0:1:2", "RemapGid=3:4:5"], ["--uidmap", "0:1:2", "--gidmap", "3:4:5"]),
        (["RemapUsers=auto"], ["--userns", "auto"]),
        (["RemapUsers=auto", "RemapUidSize=0"], ["--userns", "auto"]),
        (
            ["RemapUsers=auto", "RemapUid=0:1:2", "RemapGid=3:4:5", "RemapUidSize=9"],
            ["--userns", "auto:uidmapping=0:1:2,gidmapping=3:4:5,size=9"],
        ),
        (["RemapUsers=keep-id"], ["--userns", "keep-id"]),
        (["RemapUsers=keep-id", "RemapUid=1", "RemapGid=2"], ["--userns", "keep-id:uid=1,gid=2"]),
        (["Exec=a", 'Exec=/bin/sh -c "echo \\"$A\\" ; x"'], ["reg.example/hello:1", "/bin/sh", "-c", 'echo "$A" ; x']),
    ],
)
def test_keys_become_arguments_of_podman(lines: list[str], wanted: list[str]) -> None:
    words = arguments(container(*lines))
    assert has(words, *wanted), words


@pytest.mark.parametrize(("key", "option"), [*STRINGS.items(), *HEALTH.items()])
def test_keys_with_one_value_give_the_last_one(key: str, option: str) -> None:
    assert has(arguments(container(f"{key}=1", f"{key}=two")), option, "two")
    assert option not in arguments(container(f"{key}=1", f"{key}="))


@pytest.mark.parametrize(("key", "option"), BOOLEANS.items())
def test_switches_are_given_or_denied(key: str, option: str) -> None:
    assert option in arguments(container(f"{key}=yes"))
    assert f"{option}=false" in arguments(container(f"{key}=no"))


@pytest.mark.parametrize(("key", "option"), LISTS.items())
def test_keys_with_many_values_give_each_as_it_is(key: str, option: str) -> None:
    lines = [f"{key}=gone", f"{key}=", f"{key}=a b", f"{key}=c"]
    assert has(arguments(container(*lines)), option, "a b", option, "c")
    assert "gone" not in arguments(container(*lines))


@pytest.mark.parametrize(("key", "option"), PAIRS.items())
def test_pairs_are_given_once_each(key: str, option: str) -> None:
    assert has(arguments(container(f"{key}='b=1 2' a=3", f"{key}=a=4")), option, "a=4", option, "b=1 2")


def test_options_of_security_have_one_word_each() -> None:
    for key, option in SECURITY_FLAGS.items():
        assert has(arguments(container(f"{key}=yes")), "--security-opt", option)
        assert "--security-opt" not in arguments(container(f"{key}=no"))
    for key, option in SECURITY_VALUES.items():
        assert has(arguments(container(f"{key}=x", f"{key}=y")), "--security-opt", f"{option}y")
        assert "--security-opt" not in arguments(container(f"{key}="))
    for key, option in SECURITY_PATHS.items():
        wanted = ["--security-opt", f"{option}/a:/b", "--security-opt", f"{option}/c"]
        assert has(arguments(container(f"{key}=/a:/b '/c'")), *wanted)


def test_a_folder_runs_in_place_of_an_image() -> None:
    options = convert("[Container]\nRootfs=/var/lib/tree:O\nExec=/bin/x\n")
    assert arguments(options)[-3:] == ["--rootfs", "/var/lib/tree:O", "/bin/x"]


def test_global_arguments_of_a_container_stand_in_each_command() -> None:
    options = container("ContainersConfModule=/m", "GlobalArgs=--log-level debug", "ReloadSignal=HUP")
    podman = "/usr/bin/podman --module=/m --log-level debug"
    assert values(options, "ExecStart")[0].startswith(f"{podman} run --name systemd-%N ")
    assert values(options, "ExecStop") == [f"{podman} rm -v -f -i --cidfile=%t/%N.cid"]
    assert values(options, "ExecReload") == [f"{podman} kill --signal HUP systemd-%N"]


def test_a_container_is_reloaded_by_a_command_in_it() -> None:
    options = container("ContainerName=web", "ReloadCmd=/bin/x 'a b'")
    assert values(options, "ExecReload") == ['/usr/bin/podman exec web /bin/x "a b"']
    assert values(container("ReloadCmd="), "ExecReload") == []


def test_a_device_that_may_be_missing_is_looked_for_when_the_container_starts() -> None:
    options = container("AddDevice=-/dev/null:/dev/mine /dev/a", "AddDevice=-/dev/nowhere")
    assert has(arguments(options), "--device", "/dev/a", "$PODMAN_DEVICES")
    assert values(options, "EnvironmentFile") == ["-%t/%N.devices"]
    shell = shlex.split(values(options, "ExecStartPre")[-1])
    assert shell[:2] == ["/bin/sh", "-c"]
    script = shell[2].replace("$$", "$").replace(">%t/%N.devices", "")
    ran = subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout == "PODMAN_DEVICES= --device=/dev/null:/dev/mine\n"


def test_a_line_goes_on_after_blanks_behind_the_backslash() -> None:
    text = f"[Container]\n{IMAGE}\nExec=a \\ \t\n  'b c'\nPull=never\n"
    options = translate("hello.container", parse_quadlet_file(text), lambda name: None)
    assert arguments(without_sources(options))[-3:] == ["reg.example/hello:1", "a", "b c"]


def test_a_template_names_its_containers_by_instance() -> None:
    assert has(arguments(container(file="hello@.container")), "--name", "systemd-%p_%i")


def test_paths_that_are_mounted_are_waited_for() -> None:
    options = container("Volume=/a:/x", "Volume=%h:/y", "Mount=type=bind,source=/b,dst=/z")
    assert values(options, "RequiresMountsFor", "Unit") == ["%t/containers", "/a", "/b"]


def test_volumes_and_networks_travel_with_the_container() -> None:
    options = container(
        "Volume=data.volume:/data:ro",
        "Mount=type=volume,source=data.volume,dst=/again",
        "Network=net.network:alias=x",
        data_volume="[Unit]\nDescription=d\n[Volume]\nType=bind\nDevice=/disk\nLabel=a='b c'\nVolumeName=it's\n",
        net_network="[Network]\nNetworkDeleteOnStop=yes\n",
    )
    words = arguments(options)
    assert has(words, "-v", "it's:/data:ro")
    assert has(words, "--mount", "type=volume,source=it's,dst=/again")
    assert has(words, "--network", "systemd-net:alias=x")
    assert values(options, "RequiresMountsFor", "Unit") == ["%t/containers", "/disk"]
    [_, network, volume] = [shlex.split(value) for value in values(options, "ExecStartPre")]
    assert network[:2] == ["/bin/sh", "-c"]
    assert network[2] == (
        "/usr/bin/podman network exists systemd-net || /usr/bin/podman network create systemd-net"
        " || /usr/bin/podman network exists systemd-net"
    )
    create = volume[2].split(" || ")[1]
    assert shlex.split(create)[1:] == (
        ["volume", "create", "--opt", "device=/disk", "--opt", "type=bind", "--label", "a=b c", "it's"]
    )
    assert values(options, "ExecStopPost")[-1] == "-/usr/bin/podman network rm systemd-net"


def test_a_template_has_volumes_and_networks_of_its_instances() -> None:
    options = container(
        "Volume=data@.volume:/data", "Network=net@.network", file="web@.container", **RESOURCES_OF_TEMPLATE
    )
    assert has(arguments(options), "-v", "systemd-data-%i:/data")
    assert has(arguments(options), "--network", "systemd-net-%i")
    assert "/usr/bin/podman volume create systemd-data-%i" in values(options, "ExecStartPre")[-1]


def test_a_unit_keeps_the_files_that_it_was_made_of() -> None:
    text = f"[Unit]\nDescription=x\n\n[Container]\n{IMAGE}\nVolume=data.volume:/d\n"
    volume = "[Volume]\nLabel=a=b\n"
    options = translate(
        "hello.container", parse_unit_file("# mine\n" + text), {"data.volume": parse_unit_file(volume)}.get
    )
    read_back = parse_unit_file(render_unit_file(options))
    assert sources_of(read_back) == (SourceFile("hello.container", text), SourceFile("data.volume", volume))
    assert not [each for each in without_sources(read_back) if each.section.startswith("X-Source")]
    assert sources_of(parse_unit_file("[Service]\nExecStart=/bin/true\n")) == ()


def test_a_volume_without_options_is_kept_too() -> None:
    text = f"[Container]\n{IMAGE}\nVolume=data.volume:/d\nNetwork=net.network\n"
    options = translate("hello.container", parse_unit_file(text), lambda name: ())
    read_back = parse_unit_file(render_unit_file(options))
    assert [(file.name, file.text) for file in sources_of(read_back)][1:] == [
        ("data.volume", "[Volume]\n"),
        ("net.network", "[Network]\n"),
    ]
    assert with_image(read_back, "") == options


def test_a_unit_is_made_again_with_its_image_by_digest() -> None:
    text = f"[Container]\n{IMAGE}\nVolume=data.volume:/d\nExec=echo reg.example/hello:1\n"
    options = translate("hello.container", parse_unit_file(text), {"data.volume": parse_unit_file("[Volume]\n")}.get)
    assert resolved_image(options) == ""
    made = with_image(options, "reg.example/hello@sha256:1")
    check_options(made)
    assert resolved_image(made) == "reg.example/hello@sha256:1"
    assert arguments(without_sources(made))[-3:] == ["reg.example/hello@sha256:1", "echo", "reg.example/hello:1"]
    assert sources_of(made) == sources_of(options)
    assert with_image(made, "reg.example/hello@sha256:1") == made
    assert not [each for each in without_sources(made) if each.section.startswith("X-")]


def test_a_unit_is_what_the_container_makes_that_it_keeps() -> None:
    text = f"[Container]\n{IMAGE}\nVolume=data.volume:/d\n"
    made = translate("hello.container", parse_unit_file(text), {"data.volume": parse_unit_file("[Volume]\n")}.get)
    resolved = with_image(made, f"reg.example/hello@sha256:{'1' * 64}")
    for unit in (made, resolved):
        assert refuse_service(render_unit_file(unit)) == ""
    honest = render_unit_file(resolved)
    for change, cause in (
        (("/usr/bin/podman run", "/usr/bin/podman run --privileged"), "its service is not what its container makes"),
        (("[Service]\n", "[Service]\nUser=root\n"), "its service is not what its container makes"),
        (("reg.example/hello@", "evil.example/hello@"), "its container does not name the image evil.example/hello@"),
        (("@sha256:1", "@sha256:x"), "its container does not name the image"),
        (("Image=reg.example/hello:1", "Image=localhost/hello"), "its container does not name the image"),
        (("Image=reg.example/hello:1", "Image=alpine"), "its container does not name the image"),
        (("Image=reg.example/hello:1", "Pod=x"), "Pod= in [Container] is refused"),
        (("X-Source ", "Source "), "it keeps an image, and no container"),
    ):
        assert cause in refuse_service(honest.replace(*change)), change
    assert "line" not in refuse_made("[Service]\nExecStart=/bin/x\n")
    forged = honest.replace("podman run", "podman run --privileged")
    assert "submit the container" in refuse_made(forged)
    assert refuse_made(forged, ["", forged]) == ""  # an earlier fleetd has stored it


@pytest.mark.parametrize(
    ("lines", "image"),
    [
        (["Image=reg.example/hello:1"], "reg.example/hello:1"),
        (["Image=alpine"], "alpine"),
        (["Image=reg.example/hello@sha256:1"], ""),
        (["Image=reg.example/hello:%i"], ""),
        (["Image=localhost/hello"], ""),
        (["Image=reg.example/hello:1", "Pull=never"], ""),
    ],
)
def test_an_image_whose_tag_could_move_is_to_be_resolved(lines: list[str], image: str) -> None:
    options = translate("a.container", parse_unit_file("\n".join(["[Container]", *lines])), lambda name: None)
    assert image_to_resolve(options) == image
    assert image_to_resolve(parse_unit_file("[Service]\nExecStart=/bin/true\n")) == ""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], []),
        (["VolumeName=x"], []),
        (["ServiceName=any"], []),
        (["Driver=d"], ["--driver", "d"]),
        (["Driver=image", "Image=reg/i:1"], ["--driver", "image", "--opt", "image=reg/i:1"]),
        (["Copy=yes"], ["--opt", "copy"]),
        (["Copy=no"], ["--opt", "nocopy"]),
        (["User=1", "Group=2"], ["--opt", "o=uid=1,gid=2"]),
        (["User=root", "Group=11"], ["--opt", "o=uid=0,gid=11"]),
        (
            ["Device=/dev/x", "Type=ext4", "Options=ro", "User=0"],
            ["--opt", "device=/dev/x", "--opt", "type=ext4", "--opt", "o=uid=0,ro"],
        ),
        (["Options=size=1g", "User=2"], ["--opt", "o=uid=2,size=1g"]),
        (["UID=7", "GID=root"], ["--uid", "7", "--gid", "0"]),
        (["Label=b=1 a=2"], ["--label", "a=2", "--label", "b=1"]),
        (["PodmanArgs=--x y"], ["--x", "y"]),
    ],
)
def test_a_volume_alone_becomes_a_service_that_creates_it(lines: list[str], words: list[str]) -> None:
    options = convert("\n".join(["[Volume]", *lines]), "data.volume")
    name = "x" if "VolumeName=x" in lines else "systemd-data"
    assert shlex.split(values(options, "ExecStart")[0]) == (
        ["/usr/bin/podman", "volume", "create", "--ignore", *words, name]
    )
    assert values(options, "Type") == ["oneshot"]
    assert values(options, "RemainAfterExit") == ["yes"]


def test_a_volume_of_a_path_waits_for_that() -> None:
    text = "[Volume]\nDevice=/disk\nType=bind\n[Service]\nType=exec\n"
    options = convert(text, "data.volume")
    assert values(options, "RequiresMountsFor", "Unit") == ["%t/containers", "/disk"]
    assert values(options, "Type") == ["exec"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], []),
        (["DisableDNS=yes", "Internal=no", "IPv6=yes"], ["--disable-dns", "--internal=false", "--ipv6"]),
        (["Driver=bridge", "IPAMDriver=none"], ["--driver", "bridge", "--ipam-driver", "none"]),
        (["InterfaceName=i"], ["--interface-name", "i"]),
        (["DNS=1.1.1.1", "DNS=8.8.8.8"], ["--dns", "1.1.1.1", "--dns", "8.8.8.8"]),
        (
            ["Subnet=10.0.0.0/24", "Subnet=fd00::/64", "Gateway=10.0.0.1", "IPRange=10.0.0.128/25"],
            [
                "--subnet",
                "10.0.0.0/24",
                "--gateway",
                "10.0.0.1",
                "--ip-range",
                "10.0.0.128/25",
                "--subnet",
                "fd00::/64",
            ],
        ),
        (["Options=isolate=true", "Label=l"], ["--opt", "isolate=true", "--label", "l"]),
    ],
)
def test_a_network_alone_becomes_a_service_that_creates_it(lines: list[str], words: list[str]) -> None:
    options = convert("\n".join(["[Network]", *lines]), "net.network")
    assert shlex.split(values(options, "ExecStart")[0]) == (
        ["/usr/bin/podman", "network", "create", "--ignore", *words, "systemd-net"]
    )
    assert values(options, "ExecStopPost") == []


def test_global_arguments_stand_before_the_command() -> None:
    text = "[Network]\nGlobalArgs=--log-level debug\nContainersConfModule=/m\nNetworkDeleteOnStop=yes\nNetworkName=n\n"
    options = convert(text, "net.network")
    podman = "/usr/bin/podman --module=/m --log-level debug network"
    assert values(options, "ExecStart") == [f"{podman} create --ignore n"]
    assert values(options, "ExecStopPost") == [f"{podman} rm n"]
