# SPDX-License-Identifier: Apache-2.0
"""Versions and aliases of functions ("Manage Lambda function versions", "Lambda function aliases").

Theory of operation
-------------------
A version is the function as it was when it was published, and never changes. It is a `Function` of
its own: it has states, holds the interfaces of its configuration until it is deleted, and its
environments are nobody else's. An alias is a name that leads to a version. Both end with the
function.

A declaration names no versions. An alias in it without a version has one published whenever the
function has changed, and a version that was published for a declaration is deleted when no alias
names it any more; what `PublishVersion` has made stays until it is deleted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hyperplane_nat.model import provisioned
from hyperplane_nat.model.entities import LATEST, Alias, Function
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import uuid
from hyperplane_nat.model.invocation import not_found
from hyperplane_nat.model.lifecycle import CREATING, Lifecycle, refuse_while_changing
from hyperplane_nat.model.states import FunctionState, UpdateStatus

_ALIAS = re.compile(r"(?![0-9]+$)[a-zA-Z0-9_-]{1,128}")


def check_alias_name(name: str) -> None:
    """InvalidParameterValueException for what cannot be one; $LATEST is no alias either."""
    if _ALIAS.fullmatch(name) is None:
        raise ModelError(
            "InvalidParameterValueException",
            f"{name!r} is no name of an alias",
            "use letters, digits, - and _, not digits alone",
        )


class Versions:
    """Those of one region, inside a transaction of the caller's. Errors: `ModelError`."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    def latest(self, named: str) -> Function:
        """A function that may be changed, by name: ResourceNotFoundException."""
        key = self._tables.function_names.get(named)
        if key is None:
            raise not_found(named)
        found = self._tables.functions[key]
        if found.function_id:
            raise ModelError(
                "InvalidParameterValueException",
                f"{named} is a published version, which never changes",
                "change the function, and publish it",
            )
        return found

    def publish(self, function: Function) -> Function:
        """PublishVersion: the function as it is, or is about to be; the last one if it is that."""
        versions = self._tables.versions(function)
        if versions and _content(versions[-1]) == _content(function):
            return versions[-1]
        number = function.published + 1
        self._tables.put(replace(function, published=number))
        version = replace(
            function,
            id=uuid(self._lifecycle.random_hex),
            name=f"{function.name}:{number}",
            config=function.target,
            update=None,
            version=1,
            state=FunctionState.PENDING,
            state_reason="The function is being created.",
            state_reason_code=CREATING,
            last_update_status=UpdateStatus.SUCCESSFUL,
            last_update_status_reason="",
            last_update_status_reason_code="",
            last_used=self._lifecycle.now,
            due=None,
            declared=self._declared,
            reserved_concurrency=None,
            aliases=(),
            published=number,
            function_id=function.id,
        )
        self._tables.put(version)
        self._lifecycle.provide(version, version.config)
        return self._tables.functions[version.id]

    def publish_settled(self, function: Function) -> Function:
        """The same for who asks for it: ResourceConflictException while it is about to change."""
        refuse_while_changing(function)
        return self.publish(function)

    def delete(self, version: Function) -> None:
        """DeleteFunction with the number of a version: ResourceConflictException."""
        function = self._tables.functions[version.function_id]
        named = [each.name for each in function.aliases if version.published in each.versions]
        if named:
            raise ModelError(
                "ResourceConflictException",
                f"Unable to delete version because the following aliases reference it: {named}",
                "let them name another one, or delete them",
            )
        self._lifecycle.forget_function(version)

    def put_alias(
        self,
        function: Function,
        name: str,
        version: int,
        provisioned_concurrency: int | None = None,
        additional: Mapping[int, float] | None = None,
    ) -> Function:
        """
        CreateAlias, UpdateAlias and PutProvisionedConcurrencyConfig; version 0 is $LATEST.
        `additional` are other versions with the shares of the invocations that they serve. What is
        None stays as it is.

        Errors: ResourceNotFoundException, InvalidParameterValueException.
        """
        check_alias_name(name)
        if version and self._tables.function(f"{function.name}:{version}") is None:
            raise not_found(f"{function.name}:{version}")
        others = [each for each in function.aliases if each.name != name]
        old = next((each for each in function.aliases if each.name == name), Alias(name, 0, False))
        count = old.provisioned_concurrency
        if provisioned_concurrency is not None:
            count = provisioned_concurrency
        weights = old.additional if additional is None else tuple(additional.items())
        alias = Alias(name, version, self._declared or old.declared, count, weights)
        if weights:
            self._check_weights(function, alias)
        if count:
            _check_provisioned(function, alias, others)
        return self._with(function, [*others, alias])

    def _check_weights(self, function: Function, alias: Alias) -> None:
        """Lambda Developer Guide, "Implement Lambda canary deployments using a weighted alias"."""
        text, remedy = None, "give one other published version and a weight from 0 to 1"
        (number, weight), *more = alias.additional
        if more:
            text = "AdditionalVersionWeights has more than one version"
        elif not 0 <= weight <= 1:
            text = f"a weight of {weight} is not from 0 to 1"
        elif not (alias.version and number):
            text = "$LATEST is not supported for an alias pointing to more than 1 version"
        elif number == alias.version:
            text = (
                f"Invalid function version {number}. Function version {number} is already "
                "included in routing configuration."
            )
        elif alias.provisioned_concurrency:
            text = "Alias with weights can not be used with Provisioned Concurrency"
            remedy = "leave one of them out"
        if text is not None:
            raise ModelError("InvalidParameterValueException", text, remedy)
        if self._tables.function(f"{function.name}:{number}") is None:
            raise not_found(f"{function.name}:{number}")

    def delete_alias(self, function: Function, name: str) -> Function:
        """DeleteAlias: ResourceNotFoundException."""
        left = [each for each in function.aliases if each.name != name]
        if len(left) == len(function.aliases):
            raise ModelError(
                "ResourceNotFoundException",
                f"Alias not found: {function.name}:{name}",
                "hyperplane-nat functions lists those there are",
            )
        return self._with(function, left)

    def _with(self, function: Function, aliases: list[Alias]) -> Function:
        function = replace(function, aliases=tuple(sorted(aliases, key=lambda each: each.name)))
        self._tables.put(function)
        provisioned.settle(self._lifecycle, function)
        return function


def _check_provisioned(function: Function, alias: Alias, others: list[Alias]) -> None:
    if not alias.version:
        raise ModelError(
            "InvalidParameterValueException",
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
            "let the alias name a version",
        )
    if function.code is None:
        raise ModelError(
            "InvalidParameterValueException",
            f"function {function.name} has no handler that could be initialized",
            "give it code, or leave provisioned concurrency out",
        )
    total = sum(each.provisioned_concurrency for each in (alias, *others))
    reserved = function.reserved_concurrency
    if reserved is not None and total > reserved:
        raise ModelError(
            "InvalidParameterValueException",
            f"Requested Provisioned Concurrency, {total}, should not be greater than the "
            f"reservedConcurrentExecution for function, {reserved}",
            "ask for less, or reserve more",
        )


def by_alias(function: Function) -> dict[str, Alias]:
    """The aliases of a function by their names."""
    return {alias.name: alias for alias in function.aliases}


def weights_of(given: Mapping[str, float] | None) -> dict[int, float] | None:
    """What `put_alias` takes, of versions as they are given: InvalidParameterValueException."""
    return None if given is None else {version_of(text): each for text, each in given.items()}


def version_of(text: str) -> int:
    """The number that a version is given as; 0 for $LATEST. InvalidParameterValueException."""
    if text == LATEST:
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ModelError(
            "InvalidParameterValueException", f"{text!r} is no version", "give its number"
        )
    return int(text)


def _content(function: Function) -> tuple[object, ...]:
    """What makes it another version; not where its code is."""
    code = None if function.code is None else replace(function.code, path="")
    return function.target, code, function.environment, function.memory_mb
