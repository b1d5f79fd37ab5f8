"""The rule for what is stored beside numbers: only the fields that a server needs, short names."""

from collections.abc import Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]  # no hints
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no hints
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]  # same

_NAME = "classifier"  # of every graph that export writes
_LONGEST = 200  # characters of a name
_MOST = 8  # lines; a file of another kind would fill a screen
# a kind of part that is not named here has no place in a graph
_FIELDS = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "graph"},
    "OperatorSetIdProto": {"domain", "version"},
    "GraphProto": {"node", "name", "initializer", "input", "output", "value_info"},
    "NodeProto": {"input", "output", "name", "op_type", "domain", "attribute"},
    "AttributeProto": {"name", "type", "f", "i", "s", "t", "floats", "ints"},
    "TensorProto": {
        *("dims", "data_type", "name", "raw_data"),
        *("float_data", "int32_data", "int64_data", "double_data", "uint64_data"),
    },
    "ValueInfoProto": {"name", "type"},
    "TypeProto": {"tensor_type"},
    "Tensor": {"elem_type", "shape"},
    "TensorShapeProto": {"dim"},
    "Dimension": {"dim_value", "dim_param"},
}


def strange_fields(model: onnx.ModelProto) -> list[str]:
    """Tell what `model` carries that no server reads, and could be any text; eight at most."""
    lines = [] if model.graph.name == _NAME else [f"graph {model.graph.name}: expected {_NAME}"]
    return [*lines, *dict.fromkeys(_strange(model))][:_MOST]


def _strange(part: Message) -> Iterator[str]:
    kind = part.DESCRIPTOR.name
    where = f"{getattr(part, 'name', '')!s:.{_LONGEST}}" or kind
    for unknown in UnknownFieldSet(part):
        yield f"{where}: holds an unknown field (number {unknown.field_number})"
    for field, value in part.ListFields():
        values = value if field.is_repeated else (value,)
        if field.name not in _FIELDS.get(kind, ()):
            yield f"{where}: holds {field.name}, which export never writes"
        elif field.type == field.TYPE_MESSAGE:
            for inner in values:
                yield from _strange(inner)
        elif _is_text(field) and max(map(len, values)) > _LONGEST:
            yield f"{where}: {field.name} is longer than {_LONGEST} characters"


def _is_text(field: FieldDescriptor) -> bool:
    texts = (field.TYPE_STRING, field.TYPE_BYTES)
    return field.type in texts and field.name != "raw_data"
