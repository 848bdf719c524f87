# SPDX-License-Identifier: Apache-2.0
"""Templates: what is read, parameters, and what each function gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperplane_nat.aws import templates
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.templates import Scope, Template

RESOURCES: dict[str, Any] = {"Web": {"Type": "T"}}


def document(**sections: Any) -> Template:
    return templates.read(json.dumps({"Resources": RESOURCES, **sections}))


def scope(template: Template, **values: Any) -> Scope:
    """One in which there is the resource Web, and an export."""
    return Scope(
        template,
        {"AWS::Region": "us-east-1", **values},
        ("us-east-1a", "us-east-1b"),
        lambda name: {"Web": "i-1"}[name],
        lambda name, attribute: {"Web": f"the {attribute}"}[name],
        lambda name: {"shared": "vpc-1"}[name],
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"Ref": "Web"}, "i-1"),
        ({"Ref": "Size"}, "3"),
        ({"Fn::GetAtt": ["Web", "Arn"]}, "the Arn"),
        ({"Fn::GetAtt": "Web.Endpoint.Port"}, "the Endpoint.Port"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Web"}, 1, True]]}, "a-i-1-1-true"),
        ({"Fn::Split": [",", "a,b"]}, ["a", "b"]),
        ({"Fn::Select": ["1", {"Fn::GetAZs": ""}]}, "us-east-1b"),
        (
            {"Fn::Sub": "${Web} in ${AWS::Region}, ${Web.Arn}, ${!Web}"},
            "i-1 in us-east-1, the Arn, ${Web}",
        ),
        ({"Fn::Sub": ["${a}${Web}", {"a": {"Ref": "Size"}}]}, "3i-1"),
        ({"Fn::If": ["Large", "l", "s"]}, "l"),
        ({"Fn::If": ["Small", "s", {"Ref": "AWS::NoValue"}]}, None),
        ({"a": {"Fn::If": ["Small", "s", {"Ref": "AWS::NoValue"}]}, "b": 1}, {"b": 1}),
        ([{"Ref": "AWS::NoValue"}, 1], [1]),
        ({"Fn::FindInMap": ["M", {"Ref": "AWS::Region"}, "ami"]}, "x"),
        ({"Fn::Cidr": ["10.0.0.0/16", 2, "8"]}, ["10.0.0.0/24", "10.0.1.0/24"]),
        ({"Fn::Base64": "text"}, "dGV4dA=="),
        ({"Fn::ImportValue": {"Fn::Sub": "shared"}}, "vpc-1"),
    ],
)
def test_what_functions_give(value: Any, found: Any) -> None:
    template = document(
        Conditions={
            "Large": {"Fn::And": [{"Fn::Equals": [{"Ref": "Size"}, 3]}, {"Condition": "Other"}]},
            "Small": {"Fn::Not": [{"Condition": "Large"}]},
            "Other": {"Fn::Or": [{"Fn::Equals": ["a", "b"]}, {"Fn::Equals": [True, "true"]}]},
        },
        Mappings={"M": {"us-east-1": {"ami": "x"}}},
    )
    assert scope(template, Size="3").resolve(value) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"Ref": "Nothing"}, "Unresolved resource dependencies [Nothing]"),
        ({"Fn::GetAtt": ["Nothing", "Arn"]}, "references undefined resource Nothing"),
        ({"Fn::GetAtt": ["Web"]}, "requires two non-empty parameters"),
        ({"Fn::Sub": 1}, "don't specify text"),
        ({"Fn::Sub": "${Nothing}"}, "[Nothing]"),
        ({"Fn::Select": [5, ["a"]]}, "Fn::Select has arguments that are none"),
        ({"Fn::Select": ["x", ["a"]]}, "Fn::Select has arguments that are none"),
        ({"Fn::Join": ["-"]}, "Fn::Join has arguments that are none"),
        ({"Fn::Split": [",", 1]}, "Fn::Split has arguments that are none"),
        ({"Fn::Cidr": ["10.0.0.0/16", 2, 40]}, "Fn::Cidr has arguments that are none"),
        ({"Fn::Cidr": ["10.0.0.0/8", 257, 1]}, "Fn::Cidr has arguments that are none"),
        ({"Fn::Cidr": ["10.0.0.0/8", 0, 1]}, "Fn::Cidr has arguments that are none"),
        ({"Fn::If": ["Nothing", 1, 2]}, "Unresolved condition dependency Nothing"),
        ({"Fn::FindInMap": ["M", "a", "b"]}, "Fn::FindInMap has arguments that are none"),
        ({"Fn::ImportValue": "nothing"}, "No export named nothing found."),
        ({"Fn::Transform": {}}, "the function Fn::Transform is not known"),
    ],
)
def test_what_functions_cannot_give_is_refused(value: Any, text: str) -> None:
    with pytest.raises(AwsError) as caught:
        scope(document()).resolve(value)
    assert caught.value.code == "ValidationError"
    assert text in caught.value.message


def test_conditions_name_each_other_but_not_themselves() -> None:
    chain = {
        f"C{number + 1}": {"Fn::And": [{"Condition": f"C{number}"}, {"Condition": f"C{number}"}]}
        for number in range(60)
    }
    known = {"C0": {"Fn::Equals": [1, 1]}, **chain, "A": {"Fn::Not": [{"Condition": "B"}]}}
    asked = scope(document(Conditions={**known, "B": {"Fn::Not": [{"Condition": "A"}]}}))
    assert asked.resolve({"Fn::If": ["C60", 1, 2]}) == 1
    for name in ("A", "B"):
        with pytest.raises(AwsError) as caught:
            asked.resolve({"Fn::If": [name, 1, 2]})
        assert f"circular condition dependency {name}" in caught.value.message


def test_a_text_full_of_openings_is_read_once() -> None:
    text = "${" * 200_000
    assert scope(document()).resolve({"Fn::Sub": text}) == text


def test_short_forms_are_the_functions() -> None:
    template = templates.read(
        """
        Resources:
          A:
            Type: T
            Properties:
              Ref: !Ref B
              Att: !GetAtt B.Arn
              Sub: !Sub ["${x}", {x: !Select [0, !GetAZs ""]}]
              If: !If [Is, !Join [",", [a]], 2]
              Version: 2012-10-17
          B: {Type: T, Condition: Is}
        Conditions: {Is: !Equals [a, a], Other: !Not [!Condition Is]}
        """
    )
    properties = template.section("Resources")["A"]["Properties"]
    assert properties == {
        "Ref": {"Ref": "B"},
        "Att": {"Fn::GetAtt": "B.Arn"},
        "Sub": {"Fn::Sub": ["${x}", {"x": {"Fn::Select": [0, {"Fn::GetAZs": ""}]}}]},
        "If": {"Fn::If": ["Is", {"Fn::Join": [",", ["a"]]}, 2]},
        "Version": "2012-10-17",
    }
    assert scope(template).condition("Other") is False


def test_a_resource_comes_after_what_it_names() -> None:
    resource = {
        "DependsOn": ["A"],
        "Properties": {
            "a": [{"Ref": "B"}],
            "b": {"Fn::GetAtt": ["C", "Arn"]},
            "c": {"Fn::Sub": ["${D}${E.Arn}${own}${!F}", {"own": {"Ref": "G"}}]},
        },
    }
    assert templates.needs(resource) == set("ABCDEG")


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        ({"A": "B", "B": "C", "C": ""}, ""),
        ({"A": "A"}, "A"),
        ({"A": "B", "B": "A", "C": "A", "D": ""}, "A, B"),
        # Before it and behind it; between two of them.
        ({"F": "", "A": "BF", "B": "A", "C": "B"}, "A, B"),
        ({"A": "B", "B": "A", "M": "A", "C": "DM", "D": "C"}, "A, B, M, C, D"),
    ],
)
def test_resources_of_a_circle_are_named(needs: dict[str, str], circle: str) -> None:
    resources = {name: {"Type": "T", "DependsOn": [*each]} for name, each in needs.items()}
    if not circle:
        templates.check_order(resources)
        return
    with pytest.raises(AwsError) as caught:
        templates.check_order(resources)
    assert caught.value.message == f"Circular dependency between resources: [{circle}]"


@pytest.mark.parametrize(
    "text",
    [
        "Resources: !!python/object/apply:os.mkdir [/dev/shm/made-by-a-template]",
        "Resources: {L: {Type: !!python/name:os.system '', Properties: {}}}",
        "Resources: [",
        "[]",
        "{",
        "",
        "Resources: {L: text}",
        "Resources: {L: {Type: [T]}}",
        "Resources: {L: {Type: T, Properties: [1]}}",
        "Resources: {}",
        "Resources: {L: {Type: T}}\nParameters: {P: 1}",
        "&a [*a, *a]",
        "Resources: {L: &l {Type: T, Properties: {a: *l}}}",
        "x" * (templates.BODY_BYTES_MAX + 1),
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(AwsError) as caught:
        templates.read(text)
    assert caught.value.code == "ValidationError"


DECLARED: dict[str, Any] = {
    "Name": {"Type": "String", "AllowedPattern": "[a-z]+", "Default": "a"},
    "Size": {"Type": "Number"},
    "Kind": {"Type": "String", "AllowedValues": ["x", "y"], "Default": "x"},
    "Zones": {"Type": "CommaDelimitedList", "Default": "a, b"},
    "Subnets": {"Type": "List<AWS::EC2::Subnet::Id>", "Default": "s"},
    "Stored": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/a"},
}


def test_parameters_have_their_values() -> None:
    template = document(Parameters=DECLARED)
    found = templates.parameters(template, {"Size": "3"}, {"/a": "stored"}.__getitem__)
    assert found == {
        "Name": "a",
        "Size": "3",
        "Kind": "x",
        "Zones": ["a", "b"],
        "Subnets": ["s"],
        "Stored": "stored",
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "Parameters: [Size] must have values"),
        ({"Size": "3", "More": ""}, "Parameters: [More] do not exist in the template"),
        ({"Size": "many"}, "Parameter 'Size' must be a number."),
        ({"Size": "3", "Name": "A"}, "Parameter 'Name' must match pattern [a-z]+"),
        ({"Size": "3", "Kind": "z"}, "Parameter 'Kind' must be one of AllowedValues [x, y]"),
    ],
)
def test_parameters_that_cannot_be_are_refused(given: dict[str, str], text: str) -> None:
    with pytest.raises(AwsError) as caught:
        templates.parameters(document(Parameters=DECLARED), given, lambda name: name)
    assert (caught.value.code, caught.value.message) == ("ValidationError", text)


def test_the_serverless_transform_makes_functions_and_roles() -> None:
    properties = {
        "CodeUri": {"Bucket": "b", "Key": "k"},
        "Handler": "app.handler",
        "Runtime": "python3.11",
        "Environment": {"Variables": {"REGION": {"Ref": "AWS::Region"}}},
    }
    resources = {"F": {"Type": "AWS::Serverless::Function", "Properties": properties}}
    template = document(Transform=templates.SERVERLESS, Resources=resources)
    assert template.types == ["AWS::IAM::Role", "AWS::Lambda::Function"]
    made = template.section("Resources")["F"]["Properties"]
    assert made["Code"] == {"S3Bucket": "b", "S3Key": "k"}
    assert made["Environment"]["Variables"]["REGION"] == {"Ref": "AWS::Region"}
    for wrong in ({}, {"Handler": 1}):
        resources = {"F": {"Type": "AWS::Serverless::Function", "Properties": wrong}}
        with pytest.raises(AwsError, match=f"Transform {templates.SERVERLESS} failed with"):
            document(Transform=templates.SERVERLESS, Resources=resources)
