"""kuberay/rayjob.yaml, Dockerfile and jobs/slurm.sh, as far as one machine can tell; no cluster is reached."""

import gzip
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.scripts.scripts import cli
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from sdvae_ray.runfile import parse_run

ROOT = Path(__file__).parents[2]
ACCOUNT, SETTINGS, POLICY, JOB = yaml.safe_load_all((ROOT / "kuberay/rayjob.yaml").read_text())
SPEC = JOB["spec"]
CLUSTER = SPEC["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
PODS = [SPEC["submitterPodTemplate"], *(group["template"] for group in GROUPS)]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SLURM = ROOT / "jobs/slurm.sh"


def test_the_job_is_of_kuberays_schema(shared: Path) -> None:
    schema = json.loads(gzip.decompress((shared / "data/kuberay/rayjob_v1_schema.json.gz").read_bytes()))
    jsonschema.validate(JOB, schema)
    unknown = list(_unknown(JOB["spec"], schema["properties"]["spec"], "spec"))
    assert unknown == []


def _unknown(value: Any, schema: dict[str, Any], place: str) -> Iterator[str]:
    """Keys that the schema does not know: Kubernetes drops them without a word."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{place}[{number}]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key not in schema["properties"]:
                yield f"{place}.{key}"
            else:
                yield from _unknown(item, schema["properties"][key], f"{place}.{key}")


def test_every_pod_keeps_the_restricted_security_profile() -> None:
    for pod in PODS:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
    assert CLUSTER["autoscalerOptions"]["securityContext"] == PODS[0]["spec"]["containers"][0]["securityContext"]
    assert "useradd --uid 1000" in DOCKERFILE
    assert "USER 1000" in DOCKERFILE


def test_nothing_is_open_to_the_world() -> None:
    head = CLUSTER["headGroupSpec"]
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    label = {"app": "sdvae-ray"}
    assert POLICY["spec"]["podSelector"]["matchLabels"] == label
    assert POLICY["spec"]["policyTypes"] == ["Ingress"]
    assert all(pod["metadata"]["labels"] == label for pod in PODS)
    own, operator = POLICY["spec"]["ingress"]
    assert own["from"] == [{"podSelector": {"matchLabels": label}}]
    assert operator["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert [pod["spec"].get("automountServiceAccountToken", True) for pod in PODS] == [False, True, False, False]


def test_ray_knows_every_start_option_and_the_version_is_the_tested_one() -> None:
    known = {option.lstrip("-") for parameter in cli.commands["start"].params for option in parameter.opts}
    assert not {name for group in GROUPS for name in group["rayStartParams"]} - known
    assert f"ray=={CLUSTER['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_run_file_of_the_job_is_one_and_its_pools_fit_the_pods() -> None:
    config = parse_run(yaml.safe_load(SETTINGS["data"]["run.yaml"]))
    assert config.cluster.autoscaling
    _, cpu, gpu = GROUPS
    cpus = int(cpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert config.load.actors[1] <= cpus * cpu["maxReplicas"]
    assert config.encode.actors[1] <= gpu["maxReplicas"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    mounted = {mount["mountPath"] for mount in GROUPS[0]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert SPEC["entrypoint"] == "python jobs/run.py /etc/sdvae-ray/run.yaml"
    assert "/etc/sdvae-ray" in mounted


def test_spot_nodes_run_gpus_alone() -> None:
    head, cpu, gpu = (group["template"]["spec"] for group in GROUPS)
    keys = {toleration["key"] for toleration in gpu["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= keys
    assert not head.get("tolerations")
    assert not cpu.get("tolerations")


def test_the_image_holds_what_the_job_needs_and_nothing_is_copied_that_is_not_there() -> None:
    copied = [path for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M) for path in line.split()[:-1]]
    allowed = set((ROOT / ".dockerignore").read_text().split())
    for path in copied:
        assert (ROOT / path).exists()
        assert f"!{path.split('/')[0]}" in allowed
    assert "jobs" in copied
    for command in re.findall(r"^RUN (.*)$", DOCKERFILE, re.M):
        subprocess.run(["bash", "-n", "-c", command], check=True)


class Stand:
    """A folder of stand-ins for the programs of a Slurm node, which is the first of two."""

    def __init__(self, folder: Path, code: int | None) -> None:
        """code: exit code of the run; None: Ray does not start."""
        self.folder = folder
        self._write("scontrol", 'printf "node-a\\nnode-b\\n"')
        self._write("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
        ray = 'echo "$@" > ray.txt; while [ "$1" != -- ]; do shift; done; shift; "$@"; exit 0'
        self._write("ray", ray if code is not None else "exit 0")
        self._write("python", f'echo "$RAY_ADDRESS" "$@" > python.txt; exit {code}')

    def _write(self, name: str, line: str) -> None:
        (self.folder / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (self.folder / name).chmod(0o755)

    def submit(self, *arguments: str, **slurm: str) -> subprocess.CompletedProcess[str]:
        job = {"SLURM_JOB_ID": "123457", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2"}
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "SLURM_CPUS_ON_NODE": "8",
            "SLURM_GPUS_ON_NODE": "4",
        }
        command = ["bash", str(SLURM), *arguments]
        return subprocess.run(command, env=environment | job | slurm, cwd=self.folder, capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 3])
def test_slurm_gives_the_run_its_arguments_and_its_exit_code(tmp_path: Path, code: int) -> None:
    done = Stand(tmp_path, code).submit("run.yaml", "--set", "score.control=Metadata_role == 'negative control'")
    assert (done.returncode, done.stderr) == (code, "")
    address, *words = (tmp_path / "python.txt").read_text().split()
    assert address == "node-a:23457"
    assert " ".join(words) == "jobs/run.py run.yaml --set score.control=Metadata_role == 'negative control'"
    assert not list(tmp_path.glob("*.exit"))


def test_slurm_hands_ray_options_that_it_knows(tmp_path: Path) -> None:
    Stand(tmp_path, 0).submit("run.yaml")
    command, *options = (tmp_path / "ray.txt").read_text().partition(" -- ")[0].split()
    assert command == "symmetric-run"
    assert curate_and_validate_ray_start_args(options) == [
        "--num-cpus=8", "--num-gpus=4", "--temp-dir=/tmp/ray-123457",
    ]  # fmt: skip


def test_slurm_says_when_nothing_ran(tmp_path: Path) -> None:
    done = Stand(tmp_path, None).submit("run.yaml")
    assert done.returncode == 1
    assert "did not start" in done.stderr


def test_slurm_refuses_a_call_by_hand_and_one_without_a_run_file(tmp_path: Path) -> None:
    stand = Stand(tmp_path, 0)
    for done, words in ((stand.submit(), "usage"), (stand.submit("run.yaml", SLURM_JOB_ID=""), "sbatch")):
        assert done.returncode == 2
        assert words in done.stderr


def test_the_pages_say_that_no_cluster_has_run_them() -> None:
    for page, file in (("kubernetes.md", "kuberay/rayjob.yaml"), ("slurm.md", "jobs/slurm.sh")):
        text = (ROOT / "docs" / page).read_text()
        assert "has not been run on" in " ".join(text.replace("**", "").split()) or "not\nbeen run" in text
        assert file in text
