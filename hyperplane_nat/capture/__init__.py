# SPDX-License-Identifier: Apache-2.0
"""Frames of a running lab, with the flow that each belongs to, into a pcapng file.

This is a process of its own beside controller and forwarder: it reads their state map and taps the
gateway's links, and neither knows of it. What is not captured costs nothing.
"""
