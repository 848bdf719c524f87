# SPDX-License-Identifier: Apache-2.0
"""The forwarder as its controller sees it."""
