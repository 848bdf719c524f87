# SPDX-License-Identifier: Apache-2.0
"""Links segment what a tunnel carries."""

from __future__ import annotations

import secrets

import pytest

from netns import NetnsError, links, namespace, offloads
from netns.interior import route_socket

pytestmark = pytest.mark.live


def test_what_a_tunnel_carries_is_segmented_before_the_link() -> None:
    name = f"t-offload-{secrets.token_hex(3)}"
    namespace.create([name], lambda _name: None)
    try:
        with route_socket(name) as route, namespace.opened(name) as here:
            pair = links.Pair("a", "02:00:00:00:00:01", 1500, "b", "02:00:00:00:00:02", here)
            links.create_pairs(route, [pair])
            assert offloads.tunnel_segmentation(route, "a")
            offloads.tunnel_segmentation_off(route, "b")
            offloads.tunnel_segmentation_off(route, "b")
            assert offloads.tunnel_segmentation(route, "a")
            assert not offloads.tunnel_segmentation(route, "b")
            with pytest.raises(NetnsError, match="offloads of nowhere"):
                offloads.tunnel_segmentation_off(route, "nowhere")
    finally:
        namespace.delete([name])
