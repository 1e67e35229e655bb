"""When, where and of what a bundle was proven: what a person who signs its page has to know."""

import platform
import time
from dataclasses import dataclass
from importlib import metadata

from byolt_export.bundle.manifest import Manifest
from byolt_export.runtime.processor import cpu_name, gpu_names


@dataclass(frozen=True)
class Made:
    """Date, processor and run of a proof."""

    date: str
    processor: str
    run: str = ""
    """Name of the run that the encoder is of; empty where it is of none."""

    @classmethod
    def here(cls, run: str = "") -> "Made":
        """Now, on this machine; never a host's or a user's name."""
        processor = ", ".join([cpu_name(), *gpu_names()])
        return cls(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), f"{processor}; {platform.system()}", run)

    def rows(self, manifest: Manifest) -> list[tuple[str, str]]:
        """What stands at the head of the page."""
        tools = {"byolt": _version_of_byolt(), **manifest.tools}
        return [
            ("proven", self.date),
            ("run", self.run or "of no run: the model was given as a module"),
            ("processor", self.processor),
            ("versions", ", ".join(f"{name} {version}" for name, version in tools.items())),
        ]


def _version_of_byolt() -> str:
    try:
        return metadata.version("byolt")
    except metadata.PackageNotFoundError:
        return "from its source"
