# SPDX-License-Identifier: Apache-2.0
"""Tests of the controller, against fakes of what it starts and builds."""
