"""cluster.yaml against Ray's own schema, EC2's request shape and a simulated AWS; docs/cluster.md against all of it.

Nothing here reaches a network. Each check is a function that lists what is wrong, so that the tests can also spoil a
copy of the file and see the check find it.
"""

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import botocore.session
import click
import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.aws import config as launcher
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.aws import utils as launcher_clients
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.sdk import bootstrap_config
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.scripts.scripts import cli

from sdvae_ray.runfile import load_run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()
PAGE = (ROOT / "docs" / "cluster.md").read_text()
PLACEHOLDER = "EDIT-ME"
LOOPBACK = "127.0.0.1"
OPERATOR = "198.51.100.7/32"  # an address of RFC 5737, which nobody has

Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    loaded: Config = yaml.safe_load(TEXT)
    return copy.deepcopy(loaded)  # aliases become copies, so that a test may spoil one node type alone


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """EC2 and IAM of an account that has the roles of docs/cluster.md; a home of its own for the key pair."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    caches = (launcher_clients.resource_cache, launcher_clients.client_cache, launcher._get_subnets_or_die)
    monkeypatch.setattr(node_provider, "list_ec2_instances", _instance_types)
    with mock_aws():
        for cache in caches:
            cache.cache_clear()
        iam = boto3.client("iam")
        for name in ("sdvae-ray-head", "sdvae-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2")
    for cache in caches:
        cache.cache_clear()


@cache
def _instance_types(region: str, credentials: dict[str, Any] | None = None) -> Any:
    """What the simulated AWS says of the types of the file. Ray asks for all types there are, which takes moto ten seconds."""
    node_types = yaml.safe_load(TEXT)["available_node_types"].values()
    named = sorted({node_type["node_config"]["InstanceType"] for node_type in node_types})
    return boto3.client("ec2", region_name=region).describe_instance_types(InstanceTypes=named)["InstanceTypes"]


# What may be wrong


def refused_by_ray(config: Config) -> list[str]:
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (jsonschema.ValidationError, ValueError) as error:
        return [str(error)]
    return []


def refused_by_ec2(config: Config) -> list[str]:
    """What is wrong in a node_config, which Ray's schema leaves alone. botocore checks no enum, so this does."""
    shape = _run_instances()
    problems = []
    for name, node_type in config["available_node_types"].items():
        request = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape)
        problems += [f"{name}: {report.generate_report()}"] if report.has_errors() else []
        problems += [f"{name}{problem}" for problem in _wrong_enums(shape, request)]
    return problems


@cache
def _run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _wrong_enums(shape: Any, value: Any, path: str = "") -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from _wrong_enums(shape.members[key], value[key], f"{path}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from _wrong_enums(shape.member, item, path)
    elif getattr(shape, "enum", []) and value not in shape.enum:
        yield f"{path}: {value!r} is not one of its values"


def open_to_the_world(config: Config) -> list[str]:
    problems = [f"{path}: {text}" for path, text in _texts(config) if re.search(r"0\.0\.0\.0|::/0", text)]
    if "security_group" in config["provider"]:
        problems.append("provider.security_group: Ray adds its own rule for SSH from everywhere to these")
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        if not node.get("SecurityGroupIds"):
            problems.append(f"{name}: without SecurityGroupIds Ray makes a group with SSH from everywhere")
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            problems.append(f"{name}: IMDSv1 is allowed")
        disks = node.get("BlockDeviceMappings", [])
        if not disks or not all(disk["Ebs"].get("Encrypted") for disk in disks):
            problems.append(f"{name}: a disk is not encrypted")
        if "IamInstanceProfile" not in node:
            problems.append(f"{name}: no role of its own (Ray's for the head may do anything in EC2 and S3)")
    for command in _start_commands(config):
        options = _ray_start(command)
        if options["head"] and options["dashboard_host"] != LOOPBACK:
            problems.append(f"the dashboard listens on {options['dashboard_host']}")
        if "RAY_AUTH_MODE=token" not in command:
            problems.append("a node starts without the token")
    return problems


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, path)
    else:
        yield path, str(value)


def _start_commands(config: Config) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def _ray_start(command: str) -> dict[str, Any]:
    """Options of the `ray start` in a shell command, as Ray's own command line reads them."""
    arguments = shlex.split(command.partition("ray start")[2])
    parsed: dict[str, Any] = cli.commands["start"].make_context("start", arguments).params
    return parsed


def wrong_sizes(config: Config) -> list[str]:
    problems = []
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = {name: node_type for name, node_type in types.items() if name != config["head_node_type"]}
    for name, node_type in workers.items():
        if not 0 <= node_type["min_workers"] <= node_type["max_workers"]:
            problems.append(f"{name}: min_workers {node_type['min_workers']} to max_workers {node_type['max_workers']}")
    if config["max_workers"] != (total := sum(node_type["max_workers"] for node_type in workers.values())):
        problems.append(f"max_workers is {config['max_workers']}, the types' together {total}")
    if head.get("min_workers", 0) or head["max_workers"]:
        problems.append("workers of the head's type")
    if head["resources"] != {"CPU": 0}:
        problems.append(f"the head takes work: {head['resources']}")
    gpu_types = [node_type for node_type in workers.values() if node_type["resources"].get("GPU")]
    if not gpu_types or len(gpu_types) == len(workers):
        problems.append("GPU workers and CPU workers are wanted")
    if any(node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") != "spot" for node in gpu_types):
        problems.append("a GPU worker is not spot")
    if "InstanceMarketOptions" in head["node_config"]:
        problems.append("the head must outlive spot nodes")
    return problems


def uncommented_keys(text: str) -> list[str]:
    """Keys without a comment on their line or just above. Not asked of sections, only of their keys; not within { }."""
    lines = text.splitlines()

    def commented(line: int) -> bool:
        return bool(re.search(r"(^|\s)#", lines[line])) or (line > 0 and lines[line - 1].lstrip().startswith("#"))

    def bare(node: yaml.Node, path: str) -> Iterator[str]:
        if isinstance(node, yaml.SequenceNode) and not node.flow_style:
            for item in node.value:
                yield from bare(item, path)
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return
        for key, value in node.value:
            name = f"{path}.{key.value}".lstrip(".")
            section = (
                isinstance(value, yaml.MappingNode)
                and not value.flow_style
                and value.start_mark.line > key.start_mark.line
            )
            if not section and not commented(key.start_mark.line):
                yield name
            yield from bare(value, name) if value.start_mark.line > key.start_mark.line else ()

    root = yaml.compose(text)
    assert root is not None
    return list(bare(root, ""))


def private_details(text: str) -> list[str]:
    """Addresses, ids and secrets of somebody's account. The loopback and documentation's own words are nobody's."""
    patterns = {
        "address": r"\b(?!127\.0\.0\.1\b)(?:\d{1,3}\.){3}\d{1,3}\b",
        "mail address": r"\b[\w.]+@[\w-]+\.\w+",
        "access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "secret": r"(?i)(?:secret|password|token)\w*\s*[=:]\s*[\"']?[A-Za-z0-9/+]{20,}|BEGIN [A-Z ]*PRIVATE KEY",
        "account id": r"\b\d{12}\b",
        "resource id": r"\b(?:ami|sg|subnet|vpc|i|eni)-[0-9a-f]{8,17}\b",
    }
    return [f"{name}: {found}" for name, pattern in patterns.items() for found in re.findall(pattern, text)]


# cluster.yaml


def test_ray_accepts_the_file(config: Config) -> None:
    assert refused_by_ray(config) == []


def test_the_autoscaler_on_the_head_reads_the_same_numbers(config: Config) -> None:
    read = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
    assert read.get_max_num_worker_nodes() == config["max_workers"]
    assert read.get_idle_timeout_s() == 60 * config["idle_timeout_minutes"]
    found = read.get_node_type_configs()
    for name, node_type in config["available_node_types"].items():
        itself = 1 if name == config["head_node_type"] else 0  # the autoscaler counts the head as one of its type
        assert found[name].max_worker_nodes == node_type["max_workers"] + itself
        assert found[name].resources == node_type["resources"]


def test_ec2_would_accept_every_node_config(config: Config) -> None:
    assert refused_by_ec2(config) == []


def test_nothing_is_open_to_the_world(config: Config) -> None:
    assert open_to_the_world(config) == []


def test_numbers_of_nodes_agree_the_head_takes_no_work_and_gpus_are_spot(config: Config) -> None:
    assert wrong_sizes(config) == []


def test_every_key_has_its_reason_beside_it() -> None:
    assert uncommented_keys(TEXT) == []


def test_no_address_secret_or_account_stands_in_the_file_or_its_page() -> None:
    assert private_details(TEXT) == []
    assert private_details(PAGE) == []


def test_placeholders_stand_at_the_top_and_on_the_page(config: Config) -> None:
    placeholders = {text for _, text in _texts(config) if PLACEHOLDER in text}
    assert 1 <= len(placeholders) <= 3
    assert {text for _, text in _texts(config["metadata"]) if PLACEHOLDER in text} == placeholders
    lines = [i for i, line in enumerate(TEXT.splitlines()) if any(placeholder in line for placeholder in placeholders)]
    assert max(lines) < 20
    for placeholder in placeholders:
        assert f"`{placeholder}`" in PAGE


def test_what_nodes_install_is_in_the_repository(config: Config) -> None:
    mounted = set(config["file_mounts"].values())
    token = "~/.ray/auth_token"
    assert token in mounted
    assert [path for path in sorted(mounted - {token}) if not (ROOT / path).exists()] == []
    assert not {".", "./"} & mounted, "the tree would bring .git, .venv and data along"


def test_every_shell_command_parses_and_ray_knows_every_start_option(config: Config) -> None:
    commands = [command for key in config if key.endswith("_commands") for command in config[key]]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    head, worker = (_ray_start(command) for command in _start_commands(config))
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert (head["dashboard_port"], head["dashboard_host"]) == (8265, LOOPBACK)
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


def test_the_variant_without_an_open_port_is_accepted_too() -> None:
    variant = yaml.safe_load(re.sub(r"# (ssh_proxy_\w+:)", r"\1", TEXT))
    assert set(variant["auth"]) == {"ssh_user", "ssh_proxy_command", "ssh_proxy_use_node_id"}
    assert refused_by_ray(variant) == []


# On a simulated AWS, with the launcher's own code


def edited(config: Config, ec2: Any) -> Config:
    """The file as an operator leaves it: with the security group of docs/cluster.md."""
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="sdvae-ray", Description="sdvae-ray", VpcId=vpc)["GroupId"]
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": OPERATOR}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[within, ssh])
    changed: Config = json.loads(json.dumps(config).replace("sg-EDIT-ME", group))
    return changed


def image_of(ec2: Any) -> str:
    """moto knows no AMI by the name of a parameter: any Ubuntu stands for it."""
    images = ec2.describe_images(Filters=[{"Name": "name", "Values": ["*ubuntu*"]}])["Images"]
    return str(images[0]["ImageId"])


def inbound(ec2: Any) -> set[str]:
    groups = ec2.describe_security_groups()["SecurityGroups"]
    rules = [rule for group in groups for rule in group["IpPermissions"]]
    return {address["CidrIp"] for rule in rules for address in rule["IpRanges"]}


def test_the_launcher_starts_every_node_type_as_the_file_says(aws: Any, config: Config) -> None:
    before = len(aws.describe_security_groups()["SecurityGroups"])
    ready = bootstrap_config(edited(config, aws), no_config_cache=True)
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    for name, node_type in ready["available_node_types"].items():
        tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_LAUNCH_CONFIG: "-", TAG_RAY_USER_NODE_TYPE: name}
        provider.create_node({**node_type["node_config"], "ImageId": image_of(aws)}, tags, 1)
    nodes = {
        tag["Value"]: node
        for reservation in aws.describe_instances()["Reservations"]
        for node in reservation["Instances"]
        for tag in node["Tags"]
        if tag["Key"] == TAG_RAY_USER_NODE_TYPE
    }
    assert {name: node["InstanceType"] for name, node in nodes.items()} == {
        name: node_type["node_config"]["InstanceType"] for name, node_type in config["available_node_types"].items()
    }
    assert {name for name, node in nodes.items() if node.get("InstanceLifecycle") == "spot"} == {"gpu"}
    for name, node in nodes.items():
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert node["Placement"]["AvailabilityZone"] == "us-east-1a", name
        assert [group["GroupName"] for group in node["SecurityGroups"]] == ["sdvae-ray"], name
        assert {"Key": "ray-cluster-name", "Value": "sdvae-ray"} in node["Tags"], name
    volumes = aws.describe_volumes()["Volumes"]
    assert {(volume["Size"], volume["VolumeType"], volume["Encrypted"]) for volume in volumes} == {(150, "gp3", True)}
    assert inbound(aws) == {OPERATOR}
    assert len(aws.describe_security_groups()["SecurityGroups"]) == before + 1, "Ray made a group of its own"
    assert boto3.client("iam").list_roles()["Roles"] == [], "Ray made a role of its own"


def test_the_launcher_refuses_the_file_as_it_stands(
    aws: Any, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((click.ClickException, AssertionError)) as refusal:
        bootstrap_config(config, no_config_cache=True)
    assert "Failed to detect a security group" in f"{refusal.value}{''.join(capsys.readouterr())}"
    assert aws.describe_instances()["Reservations"] == []


def test_without_a_named_group_ray_opens_ssh_to_the_world(aws: Any, config: Config) -> None:
    """Why cluster.yaml names one. Where this fails, Ray has mended it, and the placeholder may go."""
    for node_type in config["available_node_types"].values():
        del node_type["node_config"]["SecurityGroupIds"]
    bootstrap_config(config, no_config_cache=True)
    assert "0.0.0.0/0" in inbound(aws)


def test_declared_resources_are_those_of_the_instances(aws: Any, config: Config) -> None:
    undeclared = copy.deepcopy(config)
    for node_type in undeclared["available_node_types"].values():
        node_type["resources"] = {}
    found = AWSNodeProvider.fillout_available_node_types_resources(undeclared)["available_node_types"]
    for name, node_type in config["available_node_types"].items():
        if name == config["head_node_type"]:
            assert "GPU" not in found[name]["resources"]
        else:
            wanted = {key: found[name]["resources"].get(key, 0) for key in ("CPU", "GPU")}
            assert {"GPU": 0, **node_type["resources"]} == wanted


# The checks find what they are for


def _set(*path: Any) -> Callable[[Config], None]:
    """Puts the last item at the path made of the others."""

    def change(config: Config) -> None:
        node: Any = config
        for key in path[:-2]:
            node = node[key]
        node[path[-2]] = path[-1]

    return change


GPU = ("available_node_types", "gpu")
HEAD_START = ("head_start_ray_commands", 1)
SPOILT: dict[str, tuple[Callable[[Config], list[str]], Callable[[Config], None], str]] = {
    "an unknown key at the top": (refused_by_ray, _set("max_worker", 3), "max_worker"),
    "an unknown key of a node type": (refused_by_ray, _set(*GPU, "instance", "g5.2xlarge"), "instance"),
    "an unknown head type": (refused_by_ray, _set("head_node_type", "boss"), "head_node_type"),
    "an unknown key of node_config": (
        refused_by_ec2,
        _set(*GPU, "node_config", "InstanceTyp", "g5.2xlarge"),
        "InstanceTyp",
    ),
    "an unknown key deep in node_config": (
        refused_by_ec2,
        _set(*GPU, "node_config", "InstanceMarketOptions", "SpotOptions", "MaxPrise", "1"),
        "MaxPrise",
    ),
    "a wrong type": (refused_by_ec2, _set(*GPU, "node_config", "SecurityGroupIds", "sg-x"), "SecurityGroupIds"),
    "an instance that is none": (
        refused_by_ec2,
        _set(*GPU, "node_config", "InstanceType", "g5.2xxlarge"),
        "g5.2xxlarge",
    ),
    "a volume type that is none": (
        refused_by_ec2,
        _set(*GPU, "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeType", "gp33"),
        "gp33",
    ),
    "a market that is none": (
        refused_by_ec2,
        _set(*GPU, "node_config", "InstanceMarketOptions", "MarketType", "sport"),
        "sport",
    ),
    "a behaviour that is none": (
        refused_by_ec2,
        _set(*GPU, "node_config", "InstanceMarketOptions", "SpotOptions", "InstanceInterruptionBehavior", "die"),
        "die",
    ),
    "an IMDS setting that is none": (
        refused_by_ec2,
        _set(*GPU, "node_config", "MetadataOptions", "HttpTokens", "must"),
        "must",
    ),
    "a rule open to everyone": (
        open_to_the_world,
        _set("provider", "security_group", {"IpPermissions": [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}),
        "0.0.0.0/0",
    ),
    "a rule open to everyone on IPv6": (open_to_the_world, _set("provider", "rules", [{"CidrIpv6": "::/0"}]), "::/0"),
    "a group by name": (open_to_the_world, _set("provider", "security_group", {"GroupName": "mine"}), "security_group"),
    "no security group": (
        open_to_the_world,
        _set(*GPU, "node_config", "SecurityGroupIds", []),
        "without SecurityGroupIds",
    ),
    "IMDSv1": (open_to_the_world, _set(*GPU, "node_config", "MetadataOptions", "HttpTokens", "optional"), "IMDSv1"),
    "a plain disk": (
        open_to_the_world,
        _set(*GPU, "node_config", "BlockDeviceMappings", 0, "Ebs", "Encrypted", False),
        "not encrypted",
    ),
    "a dashboard on every interface": (
        open_to_the_world,
        _set(*HEAD_START, "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"),
        "the dashboard listens on 0.0.0.0",
    ),
    "a head without the token": (open_to_the_world, _set(*HEAD_START, "ray start --head"), "without the token"),
    "more at least than at most": (wrong_sizes, _set(*GPU, "min_workers", 9), "min_workers 9"),
    "a sum that does not add up": (wrong_sizes, _set("max_workers", 10), "max_workers is 10"),
    "a head with a GPU": (
        wrong_sizes,
        _set("available_node_types", "head", "resources", {"CPU": 0, "GPU": 1}),
        "takes work",
    ),
    "GPU workers on demand": (wrong_sizes, _set(*GPU, "node_config", "InstanceMarketOptions", {}), "not spot"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_copy_is_found_out(config: Config, name: str) -> None:
    check, spoil, told = SPOILT[name]
    spoil(config)
    assert any(told in problem for problem in check(config)), name


def test_a_key_that_lost_its_comment_is_found_out() -> None:
    bare = re.sub(r"(?m)^(idle_timeout_minutes: 10).*$", r"\n\1", TEXT)
    assert uncommented_keys(bare) == ["idle_timeout_minutes"]
    assert uncommented_keys(re.sub(r"(MarketType: spot).*", r"\1", TEXT)) == [
        "available_node_types.gpu.node_config.InstanceMarketOptions.MarketType"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "10.0.3.7",
        "AKIAIOSFODNN7EXAMPLE",
        "arn:aws:iam::123456789012:role/x",
        "sg-0a1b2c3d4e5f60718",
        "aws_secret: " + "a1" * 20,
    ],
)
def test_a_private_detail_is_found_out(text: str) -> None:
    assert private_details(f"key: {text}\n")


# docs/cluster.md


def shell_blocks(page: str = PAGE) -> list[str]:
    return re.findall(r"(?ms)^\s*```bash\n(.*?)^\s*```", page)


def test_the_page_says_that_aws_is_unproven() -> None:
    assert "has not been run on AWS" in " ".join(PAGE.split())


def test_ray_knows_every_ray_command_of_the_docs() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(block for page in pages for block in shell_blocks(page.read_text())).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("ray ")]
    for _, *words in commands:
        command: Any = cli
        while hasattr(command, "commands"):
            command = command.commands[words[0]]
            words = words[1:]
        command.make_context(command.name, [word for word in words if word not in (">", "/dev/null")])
    assert {"up", "dashboard", "job", "exec", "down", "start"} <= {words[0] for _, *words in commands}


def test_the_overrides_of_the_page_are_keys_of_a_run() -> None:
    overrides = [words[words.index("--set") + 1] for words in _submissions() if "--set" in words]
    assert overrides
    for words in _submissions():
        given = [value for option, value in pairwise(words) if option == "--set"]
        run_file = next(word for word in words if word.endswith(".yaml"))
        run = load_run(ROOT / run_file, given)
        if given:
            assert run.cluster.autoscaling
            assert run.output.startswith("s3://")
            assert run.encode.gpus == 1


def _submissions() -> list[list[str]]:
    text = "\n".join(shell_blocks()).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("ray job submit")]


def test_the_roles_of_the_page_are_those_of_the_file_and_narrow(config: Config) -> None:
    policies = [json.loads(text) for text in re.findall(r"(?ms)<<EOF\n(.*?)^EOF$", PAGE)]
    assert len(policies) == 3
    actions = {action for policy in policies for rule in policy["Statement"] for action in _listed(rule["Action"])}
    assert not {action for action in actions if action.endswith(":*") or action == "*"}
    writes = [rule for policy in policies for rule in policy["Statement"] if "s3:PutObject" in rule["Action"]]
    assert [rule["Resource"] for rule in writes] == ["arn:aws:s3:::$BUCKET/*"]
    ends = [rule for policy in policies for rule in policy["Statement"] if "ec2:TerminateInstances" in rule["Action"]]
    assert [rule["Condition"]["StringEquals"] for rule in ends] == [
        {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}
    ]
    profiles = {node["node_config"]["IamInstanceProfile"]["Name"] for node in config["available_node_types"].values()}
    assert profiles == set(re.findall(r"for role in (.*?); do", PAGE)[0].split())


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
