# SPDX-License-Identifier: Apache-2.0
"""Commands on flow logs: see `commands`."""

from __future__ import annotations

from collections.abc import Sequence

from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.flow_log_entities import FlowLog, Traffic
from hyperplane_nat.model.flow_logs import About, about
from hyperplane_nat.model.identifiers import resource_id
from hyperplane_nat.model.lookups import Lookups


class FlowLogCommands(Lookups):
    """Those commands on one region."""

    def create_flow_log(
        self,
        resource: str,
        traffic: Traffic,
        fields: Sequence[str],
        aggregation_seconds: int,
        log_group: str,
    ) -> FlowLog:
        """
        CreateFlowLogs, of one resource, a VPC, subnet or network interface by its id: the NotFound
        of each, FlowLogAlreadyExists, and UnsupportedOperation where none are written, or not as
        often.
        """
        self._refuse_unwritten(aggregation_seconds)
        found = self._about(resource)
        for each in list(self._tables.flow_logs.values()):
            if about(self._tables, each.resource_id) is None:
                self._tables.remove(each)
            elif (each.resource_id, each.log_group) == (resource, log_group):
                raise ModelError(
                    "FlowLogAlreadyExists",
                    "Error. There is an existing Flow Log with the same configuration and log "
                    "destination.",
                    "delete it, or name another log group",
                )
        made = FlowLog(
            resource_id("fl", self._lifecycle.random_hex),
            self._tables.vpcs[found.vpc_id].account_id,
            resource,
            traffic,
            tuple(fields),
            aggregation_seconds,
            log_group,
            self._lifecycle.now,
        )
        self._tables.put(made)
        return made

    def delete_flow_log(self, flow_log: str) -> None:
        """DeleteFlowLogs, of one: InvalidFlowLogId.NotFound."""
        found = self._tables.flow_logs.get(flow_log)
        if found is None or about(self._tables, found.resource_id) is None:
            raise ModelError(
                "InvalidFlowLogId.NotFound",
                f"These flow log ids in the input list are not found: [TotalCount: 1] {flow_log}",
                "GET /v1/flow-logs lists those there are",
            )
        self._tables.remove(found)

    def _refuse_unwritten(self, aggregation_seconds: int) -> None:
        written = self._lifecycle.settings.flow_log_aggregation_seconds
        if written is None:
            raise ModelError(
                "UnsupportedOperation",
                "The lab writes no flow logs: its flow_logs.enabled is false.",
                "set it in the lab file",
            )
        if written > aggregation_seconds:
            raise ModelError(
                "UnsupportedOperation",
                f"The lab writes flow logs every {written} seconds: its "
                f"flow_logs.aggregation_seconds is more than {aggregation_seconds}.",
                "set it in the lab file",
            )

    def _about(self, resource: str) -> About:
        found = about(self._tables, resource)
        if found is None:
            if resource.startswith("vpc-"):
                self.vpc(resource)
            if resource.startswith("subnet-"):
                self.subnet(resource)
            raise ModelError(
                "InvalidNetworkInterfaceID.NotFound",
                f"The networkInterface ID '{resource}' does not exist",
                "name another",
            )
        return found
