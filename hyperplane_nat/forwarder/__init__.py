# SPDX-License-Identifier: Apache-2.0
"""The forwarder process: an asyncio shell around the engine and the packet rings."""
