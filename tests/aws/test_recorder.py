# SPDX-License-Identifier: Apache-2.0
"""What moto keeps, over a kill of the endpoint: a process of its own, over a real region."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aws.support import ACCOUNT, OTHER, client_of, refusal
from tests.conftest import free_port
from tests.controller.region_lab import RegionLab, served
from tests.live.lab import wait_until

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"},
        ],
    }
)
ALLOW = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
    }
)


class Process:
    """An endpoint of the lab in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines = directory.parent / f"{directory.name}.lines"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Its lines on standard error up to the first answer."""
        command = [sys.executable, "-P", "-m", "hyperplane_nat.aws", "--lab", self.directory.name]
        command += ["--runtime-directory", str(self.directory.parent), "--port", str(self.port)]
        with self.lines.open("wb") as lines:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=lines)
        wait_until(self._answers, "the endpoint answers")
        return self.lines.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self, service: str, account: str = ACCOUNT) -> Any:
        return client_of(service, self.url, account)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.lines.read_text()
        try:
            self.client("sts").get_caller_identity()
        except Exception:
            return False
        return True


@pytest.fixture
def process() -> Iterator[Process]:
    directory = Path(tempfile.mkdtemp(prefix="hp", dir="/dev/shm"))
    found = Process(directory)
    try:
        with served(directory / "control.sock", RegionLab()):
            found.start()
            yield found
    finally:
        found.kill()
        found.lines.unlink(missing_ok=True)
        shutil.rmtree(directory)


def again(process: Process) -> str:
    process.kill()
    return process.start()


def bare(answer: Any) -> Any:
    """An answer without what is of the request alone."""
    answer.pop("ResponseMetadata", None)
    if "Body" in answer:
        answer["Body"] = answer["Body"].read()
    return answer


def make(process: Process) -> dict[str, str]:
    """Something of everything; the ids that were given."""
    iam, s3, logs = (process.client(name) for name in ("iam", "s3", "logs"))
    iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST, Tags=[{"Key": "a", "Value": "b"}])
    policy = iam.create_policy(PolicyName="p", PolicyDocument=ALLOW)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="r", PolicyArn=policy)
    iam.put_role_policy(RoleName="r", PolicyName="inline", PolicyDocument=ALLOW)
    iam.create_user(UserName="u")
    key = iam.create_access_key(UserName="u")["AccessKey"]["AccessKeyId"]
    iam.create_instance_profile(InstanceProfileName="i")
    iam.add_role_to_instance_profile(InstanceProfileName="i", RoleName="r")
    s3.create_bucket(Bucket="bucket")
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    for body in (b"one", b"l" * 100_000):
        s3.put_object(Bucket="bucket", Key="a key/with + and ü", Body=body, Metadata={"m": "n"})
    upload = s3.create_multipart_upload(Bucket="bucket", Key="parts")["UploadId"]
    part = s3.upload_part(Bucket="bucket", Key="parts", UploadId=upload, PartNumber=1, Body=b"p")
    s3.complete_multipart_upload(
        Bucket="bucket",
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    open_upload = s3.create_multipart_upload(Bucket="bucket", Key="more")["UploadId"]
    logs.create_log_group(logGroupName="/g", tags={"a": "b"})
    logs.put_retention_policy(logGroupName="/g", retentionInDays=7)
    logs.create_log_stream(logGroupName="/g", logStreamName="s")
    kms = process.client("kms")
    kms_key = kms.create_key(Description="k")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/k", TargetKeyId=kms_key)
    blob = kms.encrypt(KeyId="alias/k", Plaintext=b"secret")["CiphertextBlob"]
    ssm = process.client("ssm")
    for value in ("one", "two"):
        ssm.put_parameter(Name="/p", Value=value, Type="SecureString", Overwrite=True)
    process.client("secretsmanager").create_secret(Name="s", SecretString="very")
    process.client("secretsmanager").put_secret_value(SecretId="s", SecretString="secret")
    role = f"arn:aws:iam::{OTHER}:role/x"
    session = process.client("sts").assume_role(RoleArn=role, RoleSessionName="n")["Credentials"]
    return {
        "policy": policy,
        "key": key,
        "upload": open_upload,
        "kms": kms_key,
        "blob": blob.hex(),
        "session": session["AccessKeyId"],
    }


def described(process: Process, made: dict[str, str]) -> list[Any]:
    iam, s3, logs = (process.client(name) for name in ("iam", "s3", "logs"))
    kms, ssm, secrets = (process.client(name) for name in ("kms", "ssm", "secretsmanager"))
    session = process.client("sts", made["session"])
    return [
        bare(answer)
        for answer in (
            iam.get_role(RoleName="r"),
            iam.list_attached_role_policies(RoleName="r"),
            iam.get_role_policy(RoleName="r", PolicyName="inline"),
            iam.get_policy_version(PolicyArn=made["policy"], VersionId="v1"),
            iam.list_access_keys(UserName="u"),
            iam.get_instance_profile(InstanceProfileName="i"),
            s3.list_buckets(),
            s3.list_object_versions(Bucket="bucket"),
            s3.get_object(Bucket="bucket", Key="a key/with + and ü"),
            s3.list_multipart_uploads(Bucket="bucket"),
            logs.describe_log_groups(),
            logs.describe_log_streams(logGroupName="/g"),
            logs.list_tags_log_group(logGroupName="/g"),
            kms.describe_key(KeyId="alias/k"),
            {"plain": kms.decrypt(CiphertextBlob=bytes.fromhex(made["blob"]))["Plaintext"]},
            ssm.get_parameter_history(Name="/p", WithDecryption=True),
            secrets.describe_secret(SecretId="s"),
            secrets.get_secret_value(SecretId="s"),
            # A key that was given out is of its account.
            session.get_caller_identity(),
        )
    ]


def test_what_is_recorded_is_there_after_a_kill(process: Process) -> None:
    made = make(process)
    before = described(process, made)
    assert before[-1]["Account"] == OTHER
    for _ in range(2):
        assert again(process) == ""
        assert described(process, made) == before
    # And goes on.
    process.client("s3").delete_object(Bucket="bucket", Key="parts")
    process.client("iam").delete_role_policy(RoleName="r", PolicyName="inline")
    again(process)
    iam = process.client("iam")
    assert iam.list_role_policies(RoleName="r")["PolicyNames"] == []
    assert "parts" not in {
        each["Key"] for each in process.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
    }


def test_what_was_refused_is_not_repeated(process: Process) -> None:
    s3 = process.client("s3")
    assert refusal(s3.put_object, Bucket="nobodys", Key="k", Body=b"x")[0] == "NoSuchBucket"
    assert (process.directory / "aws.journal").read_bytes() == b""
    assert again(process) == ""


def test_a_bucket_of_a_stack_has_its_objects_again(process: Process) -> None:
    template = {
        "Resources": {"B": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "of-a"}}}
    }
    stacks = process.client("cloudformation")
    stacks.create_stack(StackName="s", TemplateBody=json.dumps(template))
    stacks.get_waiter("stack_create_complete").wait(
        StackName="s", WaiterConfig={"Delay": 0.1, "MaxAttempts": 1800}
    )
    process.client("s3").put_object(Bucket="of-a", Key="k", Body=b"kept")
    assert again(process) == ""
    assert process.client("s3").get_object(Bucket="of-a", Key="k")["Body"].read() == b"kept"


def test_a_damaged_journal_is_one_line(process: Process) -> None:
    s3 = process.client("s3")
    for name in ("one-bucket", "two-bucket"):
        s3.create_bucket(Bucket=name)
    process.kill()
    path = process.directory / "aws.journal"
    path.write_bytes(path.read_bytes().replace(b"two-", b"tvo-"))
    lines = process.start().splitlines()
    assert len(lines) == 1
    assert "line 2 of aws.journal is damaged" in lines[0]
    assert [each["Name"] for each in process.client("s3").list_buckets()["Buckets"]] == [
        "one-bucket"
    ]
