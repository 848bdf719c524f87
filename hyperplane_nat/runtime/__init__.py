# SPDX-License-Identifier: Apache-2.0
"""Handlers: Lambda's Runtime API, the processes of functions, and the API that invokes them."""
