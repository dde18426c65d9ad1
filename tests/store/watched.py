"""A process of its own, for test_hostile.py: opens altered stores, and says what of them reached outside the store."""

from __future__ import annotations

import json
import random
import resource
import sys
import sysconfig
from pathlib import Path
from typing import Any

import dist_attr
from dist_attr.store.manifest import checksum_of
from scripts.fuzz_store import VALUES, Victim, places

URLS = [value for value in VALUES if isinstance(value, str) and ("/" in value or ":" in value)]


def main(folder: Path) -> None:
    """Alter a store at each place twice; prints how often, and exits with 1 after the first thing it should not do."""
    victim = Victim(folder, "int8", 2001)
    bait = folder.parent / "bait.json"
    bait.write_text("{}")
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")}
    inside = (str(folder.resolve()), str(Path(dist_attr.__file__).parent), *libraries)
    reached: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | Path):
            path = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
            # psutil asks the kernel for the free memory.
            if path != "/proc/meminfo" and not str(Path(path).resolve()).startswith(inside):
                reached.append(f"open {path}")
        elif event.startswith(("socket.connect", "socket.getaddrinfo", "pickle.", "subprocess.", "os.exec", "urllib.")):
            reached.append(event)

    sys.addaudithook(watch)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    reached.clear()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, in_use + 2**30))
    draw, cases = random.Random(0), 0
    for name in ("zarr.json", "tangents/zarr.json", "scales/zarr.json"):
        for number in range(len(places(json.loads(victim.files[name])))):
            for value in (str(bait), draw.choice(URLS), {"path": str(bait)}, draw.choice(VALUES)):
                values = json.loads(victim.files[name])
                place, key = places(values)[number]
                place[key] = value
                attributes = values.get("attributes")
                if isinstance(attributes, dict) and "dist_attr" in attributes:
                    attributes["dist_attr_sha256"] = checksum_of(attributes["dist_attr"])
                outcome = victim.judge({name: json.dumps(values).encode()}, fitting=True)
                cases += 1
                if outcome.startswith("FAILED") or reached:
                    raise SystemExit(f"{name}: {value!r} for {key!r}: {outcome}, {reached}")
    print(cases, "cases")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
