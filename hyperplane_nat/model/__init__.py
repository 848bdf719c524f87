# SPDX-License-Identifier: Apache-2.0
"""What a lab consists of, in AWS's words: plain data that knows no namespace and no packet."""
