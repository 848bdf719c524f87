# SPDX-License-Identifier: Apache-2.0
"""Infrastructure code: the CDK, Ansible and AWS SAM each make a network, and packets go through it.

`make test-tools` installs them in an environment of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab
from tests.live.test_aws import CODE, TOML, Endpoint, archive, serving, waited
from tests.live.test_aws_balancers import answering
from tests.live.test_aws_stacks import ANYWHERE, NETWORK, OUTPUTS, nothing_left

pytestmark = [
    pytest.mark.live,
    pytest.mark.long,
    pytest.mark.slow,
    # Each tool is begun several times, which takes most of a minute where others work, too.
    pytest.mark.timeout(1800),
]

SOURCES = Path(__file__).parent / "tools"
TOOLS = Path(sys.executable).parents[1] / "tools"
RUNTIME = f"python3.{sys.version_info.minor}"


SERVERLESS = f"""
  Function:
    Type: AWS::Serverless::Function
    DependsOn: [Route, Association, PublicRoute, PublicAssociation]
    Properties:
      CodeUri: code/
      Handler: app.handler
      Runtime: {RUNTIME}
      Timeout: !Ref Seconds
      VpcConfig: {{SubnetIds: [!Ref Private], SecurityGroupIds: [!Ref Group]}}
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    # Slower than of the other tests: Ansible's waiters look for a deleted NAT gateway after 15
    # seconds, and AWS lists it for an hour.
    return launch_shared(environments=0, toml=TOML.replace("1000.0", "100.0"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with what the tools are given."""
    if not (TOOLS / ".installed").exists():
        pytest.fail("the tools are not installed: make test-tools")
    for each in SOURCES.iterdir():
        shutil.copy(each, tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "code.zip").write_bytes(archive())
    return tmp_path


def run(endpoint: Endpoint, place: Path, *command: str) -> str:
    """What a tool prints."""
    variables = {
        "HOME": str(place),
        "PATH": f"{TOOLS / 'bin'}:{TOOLS / 'node_modules' / '.bin'}:{os.environ['PATH']}",
        "NODE_PATH": str(TOOLS / "node_modules"),
        "AWS_REGION": endpoint.variables["AWS_DEFAULT_REGION"],
        "ANSIBLE_PYTHON_INTERPRETER": str(TOOLS / "bin" / "python"),
        "CDK_DISABLE_VERSION_CHECK": "1",
        "CODE": "code",
        "RUNTIME": RUNTIME,
        "SAM_CLI_TELEMETRY": "0",
    }
    done = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, **endpoint.variables, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def seen(endpoint: Endpoint, name: str, **event: object) -> Any:
    """As whom the server on the internet sees a function, or what it is answered at a `place`."""
    functions = endpoint.client("lambda")
    # Not every tool waits for what it has made.
    waited(functions, "function_active_v2", FunctionName=name)
    answer = functions.invoke(FunctionName=name, Payload=json.dumps(event))
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


def address(endpoint: Endpoint) -> str:
    """The elastic address that there is."""
    (found,) = endpoint.client("ec2").describe_addresses()["Addresses"]
    return str(found["PublicIp"])


def timeout(endpoint: Endpoint, name: str) -> int:
    found = endpoint.client("lambda").get_function_configuration(FunctionName=name)
    return int(found["Timeout"])


def test_the_cdk(lab: Lab, place: Path) -> None:
    # The CDK's own bootstrap and default synthesizer, and no flags.
    cdk = ("cdk", "--app", "node app.js")
    with serving(lab) as endpoint:
        elb = endpoint.client("elbv2")
        whose = "aws://{AWS_ACCESS_KEY_ID}/{AWS_DEFAULT_REGION}".format(**endpoint.variables)
        run(endpoint, place, *cdk, "bootstrap", whose, "-c", "seconds=10")
        for seconds in (10, 20):
            said = run(
                endpoint,
                place,
                *(*cdk, "deploy", "--require-approval", "never", "-c", f"seconds={seconds}"),
            )
            found = re.search(r"net\.Name = (\S+)", said)
            assert found is not None, said
            assert seen(endpoint, found[1]) == address(endpoint)
            assert timeout(endpoint, found[1]) == seconds
            front = re.search(r"net\.Front = (\S+)", said)
            assert front is not None, said
            with answering(lab, "web-1"):
                (group,) = elb.describe_target_groups()["TargetGroups"]
                waited(elb, "target_in_service", TargetGroupArn=group["TargetGroupArn"])
                said = seen(endpoint, found[1], place=f"http://{front[1]}/")
                assert said.startswith("web-1 ")
        run(endpoint, place, *cdk, "destroy", "--force", "-c", "seconds=20")
    nothing_left(lab)


def test_ansible(lab: Lab, place: Path) -> None:
    values = ("-e", f"archive={place / 'code.zip'}", "-e", f"runtime={RUNTIME}")
    play = (str(TOOLS / "bin" / "ansible-playbook"), *values)
    with serving(lab) as endpoint:
        assert " changed=9 " in run(endpoint, place, *play, "site.yml")
        assert seen(endpoint, "fetch") == address(endpoint)
        # Once more is no change.
        assert " changed=0 " in run(endpoint, place, *play, "site.yml")
        run(endpoint, place, *play, "-e", "state=absent", "site.yml")
    nothing_left(lab)


def test_sam(lab: Lab, place: Path) -> None:
    template = f"Transform: AWS::Serverless-2016-10-31\n{NETWORK}{SERVERLESS}{OUTPUTS}"
    (place / "template.yaml").write_text(template.replace("EGRESS", ANYWHERE), encoding="utf-8")
    sam = ("sam", "deploy", "--stack-name", "net", "--template-file", "template.yaml")
    how = ("--resolve-s3", "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset")
    with serving(lab) as endpoint:
        for seconds in (10, 20):
            given = ("--parameter-overrides", f"Seconds={seconds}")
            said = run(endpoint, place, *sam, *how, *given)
            found = re.search(r"Value\s+(net-Function-\S+)", said)
            assert found is not None, said
            assert seen(endpoint, found[1]) == address(endpoint)
            assert timeout(endpoint, found[1]) == seconds
        run(endpoint, place, "sam", "delete", "--stack-name", "net", "--no-prompts")
    nothing_left(lab)
