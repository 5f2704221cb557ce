"""The project's addresses, which the files that are built hold where the address of the repository is known."""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Addresses(MetadataHookInterface):
    """Makes them of the environment variable `PROJECT_URL`, as `https://host/owner/name`; without it there are none."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the addresses in."""
        if address := os.environ.get("PROJECT_URL", "").rstrip("/"):
            metadata["urls"] = {
                "Source": address,
                "Documentation": f"{address}/tree/main/examples/guides",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
