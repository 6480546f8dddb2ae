"""Read TensorBoard's event files, and say what could not be read: TensorBoard's own reader ends there in silence.

A file is a row of records: length (8 bytes), checksum of the length (4), data, checksum of the data (4). Where data are
damaged, one record is lost. Where a length is, the next record is looked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util import tensor_util

FILES = "events.out.tfevents.*"
HEADER, CHECKSUM = 12, 4
"""Bytes of a length with its checksum, and of a checksum."""
NEXT = re.compile(rb"(?s)(?=....\x00{4}....\t)")
"""Where a record may begin: its length is below 4 GB, and the first field of its data is the time."""
TEXT = "/text_summary"
"""End of the tags of lines of text."""
LOST_BEFORE = "events_lost.txt"
"""File beside the events of a run that was kept (``study keep``): what could not be read of them by then, in lines."""
Value = TypeVar("Value", float, str)


@dataclass
class Logged:
    """What the event files of a run hold.

    Attributes:
        scalars: Steps and values by tag, in the order of writing; without those beyond the checkpoint that a later
            start went on from (``run/monitor.py``), where its event file says so.
        texts: The same of lines of text.
        problems: What could not be read: the file, how much is lost, and where; one line each.
        num_records: How many records were read.
    """

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    texts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    num_records: int = 0


def event_files(folder: Path) -> list[Path]:
    """Return the event files of a run folder, in the order of their names, that of writing."""
    return sorted(path for path in folder.glob(FILES) if path.is_file())


def read_events(folder: str | Path) -> Logged:
    """Read all event files of a run folder; of a folder without any, or that is not there, nothing."""
    folder = Path(folder)
    logged = Logged(problems=_lost_before(folder))
    for path in event_files(folder):
        _read_file(path, logged)
    return logged


def _lost_before(folder: Path) -> list[str]:
    try:
        return (folder / LOST_BEFORE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _read_file(path: Path, logged: Logged) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        logged.problems.append(f"{path} cannot be read ({error.strerror}): its points are missing")
        return
    if not content:
        logged.problems.append(f"{path} is empty: its points are missing, if there were any")
    lost: list[tuple[int, int]] = []
    position = 0
    for start, data in _records(content):
        if start > position:
            lost.append((position, start))
        position = start + HEADER + len(data) + CHECKSUM
        if data and _is_taken(data, content[position - CHECKSUM : position], logged):
            logged.num_records += 1
        else:
            lost.append((start, position))
    tail = len(content) - position
    if lost:
        size, places = sum(end - start for start, end in lost), f"{len(lost)} places" if len(lost) > 1 else "1 place"
        logged.problems.append(
            f"{path} is damaged in {places}, first at byte {lost[0][0]:,}: the points in {size:,} of its "
            f"{len(content):,} bytes are lost"
        )
    if tail and position:
        logged.problems.append(
            f"{path}: {tail:,} bytes behind its last whole record cannot be read, and the points in them are lost "
            "(half a record, of a run that goes on or was killed, is the usual reason)"
        )
    elif tail:
        logged.problems.append(f"{path} is no event file: none of its {tail:,} bytes can be read")


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where each record starts, and its data."""
    start = 0
    while start + HEADER + CHECKSUM <= len(content):
        length, checksum = struct.unpack_from("<QI", content, start)
        end = start + HEADER + length + CHECKSUM
        if end <= len(content) and masked_crc32c(content[start : start + 8]) == checksum:
            yield start, content[start + HEADER : end - CHECKSUM]
            start = end
        elif (found := NEXT.search(content, start + 1)) is not None:
            start = found.start()
        else:
            return


def _is_taken(data: bytes, checksum: bytes, logged: Logged) -> bool:
    """Add the scalars and texts of a record, if it is whole; drop what it says is given up."""
    if struct.unpack("<I", checksum)[0] != masked_crc32c(data):
        return False
    try:
        record = Record.FromString(data)
        texts = {value.tag: _text(value) for value in record.summary.value if value.tag.endswith(TEXT)}
    except Exception:  # protobuf and numpy raise errors of their own for what is no record
        return False
    if record.session_log.status == SessionLog.START:
        logged.scalars, logged.texts = _before(record.step, logged.scalars), _before(record.step, logged.texts)
    for value in record.summary.value:
        if value.HasField("simple_value"):
            logged.scalars.setdefault(value.tag, []).append((record.step, value.simple_value))
    for tag, text in texts.items():
        logged.texts.setdefault(tag.removesuffix(TEXT), []).append((record.step, text))
    return True


def _before(step: int, points: dict[str, list[tuple[int, Value]]]) -> dict[str, list[tuple[int, Value]]]:
    """Return the points of before a step, by tag: a run went on from there, and its event files say so."""
    kept = {tag: [point for point in own if point[0] < step] for tag, own in points.items()}
    return {tag: own for tag, own in kept.items() if own}


def _text(value: object) -> str:
    return tensor_util.make_ndarray(value.tensor).item().decode()  # type: ignore[attr-defined]
