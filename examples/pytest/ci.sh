#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a job of a CI system runs, as root, on a machine of its own or in a privileged container. Keep
# report.xml and captures/ as its artifacts: a failed test's frames are in the latter.
set -eu
cd "$(dirname "$0")"
# Two labs, each with a part of the tests.
exec "${PYTHON:-python3}" -m pytest -n 2 --junitxml=report.xml --hyperplane-captures=captures "$@"
