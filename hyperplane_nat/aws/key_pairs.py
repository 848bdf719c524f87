# SPDX-License-Identifier: Apache-2.0
"""Key pairs, kept in the notes: nothing is booted, so nobody is let in by one."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Operation, Params, Row, derived, operation, utc
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer

NAME_MAX = 255
"""Characters (EC2 API, CreateKeyPair)."""

RSA_BITS = 2048
"""Of a key that EC2 makes ("Create a key pair")."""

KEY_PAIR_FILTERS = {
    "fingerprint": "KeyFingerprint",
    "key-name": "KeyName",
    "key-pair-id": "KeyPairId",
}

_NOTE = "KeyPair"


def create_key_pair(call: Call, params: Params) -> Row:
    """CreateKeyPair: InvalidKeyPair.Duplicate."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    name = _new_name(call, params)
    if params.get("KeyFormat") not in (None, "pem"):
        raise unsupported("The format of a key is pem.")
    kind = params.get("KeyType") or "rsa"
    key: Any
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        form = serialization.PrivateFormat.TraditionalOpenSSL
    elif kind == "ed25519":
        key, form = ed25519.Ed25519PrivateKey.generate(), serialization.PrivateFormat.OpenSSH
    else:
        raise AwsError("InvalidParameterValue", f"Value ({kind}) for parameter keyType is invalid.")
    encoding, none = serialization.Encoding, serialization.NoEncryption()
    material = key.private_bytes(encoding.PEM, form, none).decode()
    public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    if kind == "rsa":
        # "Verify the fingerprint of your key pair": of one that EC2 makes SHA-1 of the private key.
        private = key.private_bytes(encoding.DER, serialization.PrivateFormat.PKCS8, none)
        fingerprint = _in_pairs(hashlib.sha1(private, usedforsecurity=False).hexdigest())
    else:
        fingerprint = _sha256(public.decode())
    made = _keep(call, params, name, kind, fingerprint, public.decode())
    return {**made, "KeyMaterial": material}


def import_key_pair(call: Call, params: Params) -> Row:
    """ImportKeyPair: InvalidKeyPair.Duplicate, InvalidKey.Format."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    name = _new_name(call, params)
    said = params.get("PublicKeyMaterial")
    if not said:
        raise missing("PublicKeyMaterial")
    material = said if isinstance(said, bytes) else str(said).encode()
    try:
        key = serialization.load_ssh_public_key(material)
        public = material.decode().strip()
    except (ValueError, UnsupportedAlgorithm):
        raise _malformed() from None
    if isinstance(key, rsa.RSAPublicKey):
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # Of one that is imported MD5 of the public key.
        fingerprint = _in_pairs(hashlib.md5(der, usedforsecurity=False).hexdigest())
        return _keep(call, params, name, "rsa", fingerprint, public)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _keep(call, params, name, "ed25519", _sha256(public), public)
    raise _malformed()


def describe_key_pairs(call: Call, params: Params) -> Row:
    """DescribeKeyPairs: InvalidKeyPair.NotFound."""
    known = _own(call)
    for given, key in (("KeyNames", "KeyName"), ("KeyPairIds", "KeyPairId")):
        if wanted := params.get(given):
            there = {row[key] for row in known}
            for each in wanted:
                if each not in there:
                    raise _absent(each) if key == "KeyName" else _absent_id(each)
            known = [row for row in known if row[key] in wanted]
    shown = [
        {**row, "PublicKey": row["PublicKey"] if params.get("IncludePublicKey") else None}
        for row in known
    ]
    return answer(params, "KeyPairs", shown, KEY_PAIR_FILTERS)


def delete_key_pair(call: Call, params: Params) -> Row:
    """DeleteKeyPair, which is done for one that is not there, too."""
    name, key = params.get("KeyName"), params.get("KeyPairId")
    if not name and not key:
        raise missing("KeyName")
    for row in _own(call):
        if name in (None, row["KeyName"]) and key in (None, row["KeyPairId"]):
            call.notes.forget(row["KeyPairId"])
            return {"Return": True, "KeyPairId": row["KeyPairId"]}
    return {"Return": True, "KeyPairId": key}


def require_key_pair(call: Call, name: str | None) -> None:
    """InvalidKeyPair.NotFound for a name of none."""
    if name and all(row["KeyName"] != name for row in _own(call)):
        raise _absent(name)


# -- how


def _own(call: Call) -> list[Row]:
    found = []
    for key, note in call.notes.having(_NOTE):
        row = note[_NOTE]
        if row["OwnerId"] == call.account:
            found.append(
                {
                    "KeyPairId": key,
                    "KeyName": row["KeyName"],
                    "KeyType": row["KeyType"],
                    "KeyFingerprint": row["KeyFingerprint"],
                    "PublicKey": row["PublicKey"],
                    "CreateTime": utc(row["CreateTime"]),
                    "Tags": call.tags(key),
                }
            )
    return sorted(found, key=lambda row: str(row["KeyName"]))


def _new_name(call: Call, params: Params) -> str:
    name = params.get("KeyName")
    if not name:
        raise missing("KeyName")
    if len(name) > NAME_MAX or not name.isascii():
        raise AwsError("InvalidParameterValue", f"Value ({name}) for parameter keyName is invalid.")
    if any(row["KeyName"] == name for row in _own(call)):
        raise AwsError("InvalidKeyPair.Duplicate", f"The keypair already exists: {name}")
    return str(name)


def _keep(call: Call, params: Params, name: str, kind: str, fingerprint: str, public: str) -> Row:
    now = time.time()
    key = derived("key", call.account, name, str(now))
    row = {
        "OwnerId": call.account,
        "KeyName": name,
        "KeyType": kind,
        "KeyFingerprint": fingerprint,
        "PublicKey": public,
        "CreateTime": now,
    }
    call.notes.put(key, {_NOTE: row})
    call.tag_new(key, "key-pair", params)
    return {
        "KeyName": name,
        "KeyPairId": key,
        "KeyFingerprint": fingerprint,
        "Tags": call.tags(key),
    }


def _in_pairs(digits: str) -> str:
    return ":".join(digits[n : n + 2] for n in range(0, len(digits), 2))


def _sha256(public: str) -> str:
    """As OpenSSH shows it, which EC2 does of ED25519."""
    try:
        blob = base64.b64decode(public.split()[1])
    except (IndexError, binascii.Error):
        raise _malformed() from None
    return base64.b64encode(hashlib.sha256(blob).digest()).decode()


def _malformed() -> AwsError:
    return AwsError("InvalidKey.Format", "Key is not in valid OpenSSH public key format")


def _absent(name: str) -> AwsError:
    return AwsError("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _absent_id(key: str) -> AwsError:
    return AwsError("InvalidKeyPair.NotFound", f"The key pair ID '{key}' does not exist")


OPERATIONS: Mapping[str, Operation] = {
    "CreateKeyPair": operation(
        create_key_pair, "KeyName KeyType KeyFormat TagSpecifications", makes="key-pair"
    ),
    "DeleteKeyPair": operation(delete_key_pair, "KeyName KeyPairId"),
    "DescribeKeyPairs": operation(describe_key_pairs, "KeyNames KeyPairIds IncludePublicKey"),
    "ImportKeyPair": operation(
        import_key_pair, "KeyName PublicKeyMaterial TagSpecifications", makes="key-pair"
    ),
}
