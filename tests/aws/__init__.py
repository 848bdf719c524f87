# SPDX-License-Identifier: Apache-2.0
"""Tests of the AWS endpoint, with boto3 as its client."""
