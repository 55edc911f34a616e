"""What tells the images of a run or a cache from others: digests of names, bytes, times, labels and some
pixels, and what differs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

Stamp = tuple[str, int, int]  # name of a file, its bytes, and when it was written (ns since 1970)


def of_files(stamps: Iterable[Stamp]) -> dict[str, Any]:
    """Number of files, digests of names, bytes and times, and the newest file with its time."""
    names, sizes, times = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    count, newest, last = 0, "", 0
    for name, size, written in stamps:
        names.update(name.encode(errors="surrogatepass") + b"\0")
        sizes.update(b"%d " % size)
        times.update(b"%d " % written)
        count += 1
        if written > last:
            newest, last = name, written
    kinds = {"names": names.hexdigest(), "sizes": sizes.hexdigest(), "times": times.hexdigest()}
    return {"files": count, **kinds, "newest": [newest.encode(errors="replace").decode(), last]}


def what_differs(then: Any, now: Mapping[str, Any]) -> str | None:
    """What differs between two fingerprints, in words; none if they are of the same images.

    Args:
        then: as it was stored. A string is the digest of an earlier version, which knew labels and some
            pixels only.
    """
    if isinstance(then, str):
        return None if then == now["sample"] else "other images or labels"
    if not isinstance(then, Mapping):
        return "a record of the images that cannot be read"
    # an earlier version knew neither of some streams
    if "sample" in then and not {"files", "version"} & set(then):
        now = {kind: value for kind, value in now.items() if kind in then}
    if then == now:
        return None

    def differs(name: str) -> bool:
        return then.get(name) != now.get(name)

    if differs("images") or differs("names"):
        counts = f"{then.get('images')} images then, {now['images']} now"
        return f"files were added, removed or renamed: {counts}"
    if differs("version"):
        return "another version of the data set"
    if differs("classes"):
        return "the classes have other names"
    if differs("labels"):
        return "the images have other labels"
    if differs("sizes") or differs("sample"):
        return f"images were replaced by others{_newest(then, now)}"
    return f"the files were written again, with the same names and sizes{_newest(then, now)}"


def way_out(then: Any, now: Mapping[str, Any]) -> str:
    """What to do where only the times of files differ."""
    same = ("images", "names", "version", "classes", "labels", "sizes", "sample")
    if isinstance(then, Mapping) and all(then.get(name) == now.get(name) for name in same):
        return "; a copy that keeps the times of files ('cp -a', 'rsync -a') counts as the same images"
    return ""


def _newest(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The newest file, where it is newer than all were."""
    try:
        (_, before), (name, after) = then["newest"], now["newest"]
        if after > before:
            return f", the last at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(after / 1e9))}" + (
                name and f" ('{name}')"
            )
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return ""


def first_change(then: Any, now: Any, name: str = "") -> tuple[str, Any, Any]:
    """What differs first between two plain values: its dotted name, within mappings and lists of one length,
    and both values.
    """
    if (
        isinstance(then, list)
        and isinstance(now, list)
        and len(then) == len(now)
        and any(isinstance(v, dict) for v in then)
    ):
        then, now = ({str(place): v for place, v in enumerate(values, start=1)} for values in (then, now))
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                return first_change(then.get(key), now.get(key), f"{name}.{key}".removeprefix("."))
    return name, then, now
