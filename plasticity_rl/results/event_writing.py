"""Write curves and events of interventions as one event file of TensorBoard, which :mod:`.events` reads back.

Looked at first: ``torch.utils.tensorboard`` writes from a thread, with the time of the clock and of the host in the
name; here the same points must give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.util import tensor_util

from plasticity_rl.results.events import TEXT
from plasticity_rl.results.runs import EVENT_PREFIX, Curve, Event

VERSION = "brain.Event:2"
"""Begins every event file."""


def event_file(curves: Mapping[str, Curve], events: Iterable[Event] = ()) -> bytes:
    """Return an event file.

    Args:
        curves: By tag; values are float32, as TensorBoard has them.
        events: What interventions did.
    """
    values: dict[int, list[Summary.Value]] = {}
    for tag in sorted(curves):
        for frame, value in zip(curves[tag].frames.tolist(), curves[tag].values.tolist(), strict=True):
            values.setdefault(frame, []).append(Summary.Value(tag=tag, simple_value=value))
    for event in events:
        values.setdefault(event.frame, []).append(_text(EVENT_PREFIX + event.name, event.text))
    records = [Record(file_version=VERSION)]
    records += [Record(step=frame, summary=Summary(value=own)) for frame, own in sorted(values.items())]
    return b"".join(map(_framed, records))


def _text(tag: str, text: str) -> Summary.Value:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag + TEXT, metadata=metadata, tensor=tensor_util.make_tensor_proto([text.encode()]))


def _framed(record: Record) -> bytes:
    data = record.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
