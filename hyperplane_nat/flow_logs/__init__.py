# SPDX-License-Identifier: Apache-2.0
"""VPC flow logs: lines in AWS's format about what the flow table and the flow records tell."""
