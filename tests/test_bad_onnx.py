"""Bad ONNX files, each refused by name: rows 30-38 of the table of bad inputs.

What breaks one rule each is in test_export_rules; here are the rows as a whole, on a release.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bandstop.cli.main import main
from bandstop.export.record_files import read_record
from bandstop.export.rules import violations
from bandstop.export.verify import verify
from tests.releases import record, release_folder
from tests.whole_releases import NAMES, graph, whole_release

Change = Callable[[onnx.ModelProto], object]


def weight(model: onnx.ModelProto, name: str = "weight") -> TensorProto:
    found: TensorProto = next(i for i in model.graph.initializer if i.name == name)
    return found


# row 30


def test_no_byte_of_a_damaged_file_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError

    release = whole_release(tmp_path / "release")
    good = (release / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx, "load_model_from_string", parsed)
    chance = random.Random(0)
    damaged = [good[:end] for end in range(0, len(good), 128)]
    damaged += [chance.randbytes(len(good)) for _ in range(4)]
    for _ in range(16):
        flipped = bytearray(good)
        flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    for data in damaged:
        (release / "model.onnx").write_bytes(data)
        report = verify(release)
        (told,) = report.misfits
        assert told[0] == "files"
        assert "'model.onnx'" in told[1]
        assert report.exit_code == 5


@pytest.mark.parametrize("end", [0, 1, 2, 100, 1000, -1])
def test_a_cut_file_with_the_right_digest_is_refused(tmp_path: Path, end: int) -> None:
    file = graph("baked").SerializeToString()[:end]
    release = release_folder(tmp_path / "release", file, names=NAMES["baked"], mode="baked")
    checks = {check for check, _ in verify(release).misfits}
    assert checks == {"graph"}


# row 31

LOCATIONS = {
    "above": {"location": "../secret"},
    "down and above": {"location": "a/../../secret"},
    "absolute": {"location": "/etc/passwd"},
    "link": {"location": "link"},
    "hard link": {"location": "hard"},
    "NUL": {"location": "weights.bin\0x"},
    "device": {"location": "/dev/zero"},
    "pipe": {"location": "pipe"},
    "too short": {"location": "weights.bin", "length": "1024"},
    "negative offset": {"location": "weights.bin", "offset": "-1"},
    "huge offset": {"location": "weights.bin", "offset": str(2**62)},
    "negative length": {"location": "weights.bin", "length": "-1"},
    "huge length": {"location": "weights.bin", "length": str(2**62)},
    "no location": {"offset": "0"},
    "unknown key": {"surprise": "1"},
}


@pytest.mark.parametrize("case", LOCATIONS)
def test_external_data_is_refused_whatever_it_names(tmp_path: Path, case: str) -> None:
    model = graph("baked")
    outside = weight(model)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in LOCATIONS[case].items():
        outside.external_data.add(key=key, value=value)
    file = model.SerializeToString()
    release = release_folder(tmp_path / "r", file, names=NAMES["baked"], mode="baked")
    assert list(verify(release).misfits) == [("graph", "weight: external data is not allowed")]


# rows 32 to 38


def inserted(op: str, domain: str = "") -> Change:
    """Put a node between the last one and the output."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "raw"
        node = helper.make_node(op, ["raw"], ["logits"], "new", domain=domain)
        model.graph.node.append(node)
        if domain:
            model.opset_import.add(domain=domain, version=1)

    return change


def initializer(name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Change:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(value, name))


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def node(op: str, inputs: list[str], outputs: list[str], at: int = 0) -> Change:
    made = helper.make_node(op, inputs, outputs, name="new")
    return lambda model: model.graph.node.insert(at, made)


def statistics(model: onnx.ModelProto) -> None:
    names = ("scale", "shift", "mean", "var")
    for name in names:
        initializer(name, np.full(4, 0.5, np.float32))(model)
    inserted("BatchNormalization")(model)
    model.graph.node[-1].input.extend(names)


def size_from_the_image(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Cast", ["raw"], ["size"], to=TensorProto.INT64))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["logits"], "new"))


def function(model: onnx.ModelProto) -> None:
    inside = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_function("local", "f", ["x"], ["y"], [inside], model.opset_import)
    model.functions.append(made)


def dims(*sizes: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        weight(model).dims[:] = sizes

    return change


def text(model: onnx.ModelProto) -> None:
    made = TensorProto(name="weight", data_type=TensorProto.STRING, string_data=[b"x"])
    made.dims.append(1)
    weight(model).CopyFrom(made)


def training(model: onnx.ModelProto) -> None:
    """Let a BatchNormalization without statistics take those of whatever batch it gets."""
    for name, value in {"scale": 1, "shift": 0, "mean": 0, "var": 1}.items():
        initializer(name, np.full(4, value, np.float32))(model)
    inserted("BatchNormalization")(model)
    model.graph.node[-1].input.extend(("scale", "shift", "mean", "var"))
    model.graph.node[-1].output.extend(("new_mean", "new_var"))
    model.graph.node[-1].attribute.append(helper.make_attribute("training_mode", 1))


def table(*shape: int, axis: int = 0, through: str = "") -> Change:
    """Leave a table of gates where one row of it is looked up and folded."""

    def change(model: onnx.ModelProto) -> None:
        initializer("alpha", np.ones(shape, np.float32))(model)
        model.graph.initializer.append(numpy_helper.from_array(np.array(1), "row"))
        model.graph.node[-1].output[0] = "raw"
        read = "alpha"
        if through:
            model.graph.node.append(helper.make_node(through, ["alpha"], ["turned"]))
            read = "turned"
        model.graph.node.append(helper.make_node("Gather", [read, "row"], ["mask"], axis=axis))
        model.graph.node.append(helper.make_node("Mul", ["raw", "mask"], ["logits"]))

    return change


def read_without_effect(model: onnx.ModelProto) -> None:
    """Keep the original's weights, used by a sum that adds nothing."""
    initializer("original", np.ones((3, 64), np.float32))(model)
    initializer("nothing", np.zeros((), np.float32))(model)
    model.graph.node[-1].output[0] = "raw"
    for op, inputs, output in (
        ("ReduceMax", ["original"], "most"),
        ("Mul", ["most", "nothing"], "none"),
        ("Add", ["raw", "none"], "logits"),
    ):
        model.graph.node.append(helper.make_node(op, inputs, [output], name=op))


def constant_size(op: str, *sizes: int) -> Change:
    """Let a constant make something enormous of one number; the answers stay as they are."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes), "sizes"))
        inputs = ["sizes"]
        if op == "Expand":
            initializer("one", np.ones((1,) * len(sizes), np.float32))(model)
            inputs = ["one", "sizes"]
        model.graph.node[-1].output[0] = "raw"
        model.graph.node.append(helper.make_node(op, inputs, ["huge"]))
        model.graph.node.append(helper.make_node("ReduceMin", ["huge"], ["small"], keepdims=0))
        model.graph.node.append(helper.make_node("Add", ["raw", "small"], ["logits"]))

    return change


def counting(model: onnx.ModelProto) -> None:
    for name, value in {"from": 0, "to": 1 << 40, "by": 1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("Range", ["from", "to", "by"], ["huge"]))
    model.graph.node.append(helper.make_node("ReduceMin", ["huge"], ["small"], keepdims=0))
    model.graph.node.append(helper.make_node("Cast", ["small"], ["float"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Add", ["raw", "float"], ["logits"]))


def padded(model: onnx.ModelProto) -> None:
    pads = np.array([0, 0, 1 << 20, 1 << 20, 0, 0, 1 << 20, 1 << 20])
    model.graph.initializer.append(numpy_helper.from_array(pads, "pads"))
    model.graph.node.insert(0, helper.make_node("Pad", ["image", "pads"], ["huge"]))
    model.graph.node.insert(1, helper.make_node("GlobalMaxPool", ["huge"], ["one"]))
    model.graph.node.insert(2, helper.make_node("Add", ["one", "image"], ["back"]))
    model.graph.node[3].input[0] = "back"


def enlarged(model: onnx.ModelProto) -> None:
    scales = np.array([1, 1, 1 << 20, 1 << 20], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    model.graph.node.insert(0, helper.make_node("Resize", ["image", "", "scales"], ["huge"]))
    model.graph.node.insert(1, helper.make_node("GlobalMaxPool", ["huge"], ["one"]))
    model.graph.node.insert(2, helper.make_node("Add", ["one", "image"], ["back"]))
    model.graph.node[3].input[0] = "back"


def unknown_field(model: onnx.ModelProto) -> None:
    model.graph.node[0].MergeFromString(b"\xfa\x7f\x05/home")  # number 2047, five bytes


def quantisation(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add(tensor_name="/home/me")


def image(index: int, **size: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        made = onnx.TensorShapeProto.Dimension(**size)  # type: ignore[arg-type]  # either field
        model.graph.input[0].type.tensor_type.shape.dim[index].CopyFrom(made)

    return change


def element(kind: int) -> Change:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", kind)


def leak(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 64])
    model.graph.output.append(info)


def metadata(text: str) -> Change:
    return lambda model: model.metadata_props.add(key="source", value=text)


def opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def ir(version: int) -> Change:
    return lambda model: setattr(model, "ir_version", version)


FEATURES = np.ones((4, 64), np.float32)
GRAPHS: dict[str, tuple[Change, str]] = {
    "32 custom domain": (inserted("Own", "my.ops"), "my.ops.Own of a custom domain"),
    "32 PyOp": (inserted("PyOp", "ai.onnx.contrib"), "ai.onnx.contrib.PyOp"),
    "32 contrib": (inserted("FusedGemm", "com.microsoft"), "com.microsoft.FusedGemm"),
    "32 ml": (inserted("Scaler", "ai.onnx.ml"), "ai.onnx.ml.Scaler"),
    **{
        f"32 {op}": (inserted(op), f"new: operator {op} is not on the list")
        for op in (
            *("Loop", "If", "Scan", "RandomNormal", "RandomUniformLike", "Bernoulli"),
            *("Multinomial", "SequenceMap", "Optional", "StringNormalizer", "Dropout"),
        )
    },
    "32 size from the image": (size_from_the_image, "new: ConstantOfShape takes its size"),
    "32 function": (function, "function f"),
    "33 normalisation": (statistics, "new: BatchNormalization holds statistics"),
    "33 hidden original": (
        both(initializer("original", FEATURES), node("Identity", ["original"], ["kept"])),
        "new: computes what nothing reads",
    ),
    "33 unused": (initializer("left", FEATURES), "left: stored or asked for but never used"),
    "33 stored twice": (initializer("weight", FEATURES), "weight: stored twice"),
    "34 size of 2^40": (dims(2**40), "weight: holds what cannot be read"),
    "34 sizes that wrap": (dims(2**33, 2**33), "weight: holds what cannot be read"),
    "34 negative size": (dims(-1, 64), "weight: holds what cannot be read"),
    "34 text": (text, "weight: strings are not allowed"),
    "34 unknown type": (
        lambda m: setattr(weight(m), "data_type", 99),
        "weight: holds what cannot be read",
    ),
    "35 newer operators": (opset(99), "operator sets"),
    "35 older operators": (opset(7), "operator sets"),
    "35 no operators": (lambda m: m.ClearField("opset_import"), "operator sets"),
    "35 IR 0": (ir(0), "IR version 0"),
    "35 IR 999": (ir(999), "IR version 999"),
    "35 no graph": (lambda m: m.ClearField("graph"), "inputs []"),
    "35 cycle": (
        lambda m: m.graph.node[0].input.__setitem__(0, "logits"),
        "image: stored or asked for but never used",
    ),
    "35 output twice": (node("Identity", ["image"], ["flat"]), "not valid ONNX"),
    "35 shadowed": (lambda m: m.graph.node[0].output.__setitem__(0, "bias"), "ONNX"),
    "36 free height": (image(2, dim_param="H"), "shape ['N', 1, 'H', 8]"),
    "36 one image": (image(0, dim_value=1), "shape [1, 1, 8, 8]"),
    "36 negative size": (image(2, dim_value=-8), "shape ['N', 1, -8, 8]"),
    "36 other name": (lambda m: setattr(m.graph.input[0], "name", "x"), "inputs ['x']"),
    "36 half precision": (element(TensorProto.FLOAT16), "type FLOAT16, expected FP32"),
    "36 no such type": (element(99), "type 99, expected FP32"),
    "36 features": (leak, "outputs ['logits', 'flat']"),
    **{
        f"37 table {what}": (change, "alpha: has the shape of gates")
        for what, change in {
            "of a row a class": table(4, 4),
            "with a row for none": table(5, 4),
            "of three axes": table(4, 1, 4),
            "of a row a class, second": table(1, 4, 4, axis=1),
            "of a column a class": table(3, 4, axis=1),
            "read turned": table(4, 3, through="Transpose"),
        }.items()
    },
    "37 no effect": (read_without_effect, "Mul: multiplies by 0"),
    "33 normalisation in training": (training, "new: BatchNormalization holds statistics"),
    "34 constant of 2^40": (constant_size("ConstantOfShape", 1 << 20, 1 << 20), "huge: gets the"),
    "34 expanded to 2^40": (constant_size("Expand", 1 << 20, 1 << 20), "huge: gets the shape"),
    "34 padded to 2^42": (padded, "huge: gets the shape"),
    "34 enlarged to 2^46": (enlarged, "huge: gets the shape"),
    "34 counted to 2^40": (counting, "huge: gets the shape [1099511627776]"),
    **{
        f"32 {op} of {count} inputs": (
            both(inserted(op), lambda m, c=count: m.graph.node[-1].input.__delitem__(slice(c, 9))),  # type: ignore[misc]  # bound at once
            "new: has no scale",
        )
        for op, count in (("QuantizeLinear", 1), ("DequantizeLinear", 0))
    },
    "32 no output": (
        node("Identity", ["image"], []),
        "new: computes what nothing reads",
    ),
    **{
        f"38 {what}": (metadata(value), "the model carries metadata")
        for what, value in (
            *(("path", "/home/me/model.pt"), ("user", "me")),
            *(("data", "/data/faces"), ("class", "dog")),
        )
    },
    "38 graph's name": (lambda m: setattr(m.graph, "name", "/home/me"), "graph /home/me: expected"),
    "38 long name": (
        lambda m: setattr(m.graph.node[0], "name", "x" * 201),
        "name is longer than 200 characters",
    ),
    "38 long output": (
        lambda m: m.graph.node[0].output.append("y" * 201),
        "output is longer than 200 characters",
    ),
    "38 unknown field": (unknown_field, "holds an unknown field (number 2047)"),
    "38 annotation": (quantisation, "holds quantization_annotation, which export never writes"),
    "38 denotation": (
        lambda m: setattr(m.graph.input[0].type, "denotation", "/home/me"),
        "holds denotation",
    ),
    "38 configuration": (lambda m: m.configuration.add(name="/home/me"), "holds configuration"),
    "38 model's number": (lambda m: setattr(m, "model_version", 7), "holds model_version"),
    "38 producer": (lambda m: setattr(m, "producer_name", "/home/me"), "carries metadata"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_bad_graph_is_refused_by_name(tmp_path: Path, case: str) -> None:
    change, said = GRAPHS[case]
    model = graph("baked")
    change(model)
    file = model.SerializeToString()
    release = release_folder(tmp_path / "r", file, names=NAMES["baked"], mode="baked")
    report = verify(release)
    told = [misfit for check, misfit in report.misfits if check == "graph"]
    assert any(said in line for line in told), told
    assert report.exit_code == 5
    assert not any("\n" in line for line in told)


@pytest.mark.parametrize("name", [b"axis", b"flat", b"weight", b"classifier", b"Gemm"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    file = graph("baked").SerializeToString().replace(name, b"\x89" * len(name))
    release = release_folder(tmp_path / "r", file, names=NAMES["baked"], mode="baked")
    told = [misfit for check, misfit in verify(release).misfits if check == "graph"]
    assert told or name in (b"flat", b"weight")  # consistent, if odd
    assert main(["verify", str(release)]) == (5 if told else 0)


def test_a_name_neither_breaks_a_line_nor_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = graph("baked")
    initializer("\x1b[2Jall good\n" + "x" * 9999, FEATURES)(model)
    file = model.SerializeToString()
    release = release_folder(tmp_path / "r", file, names=NAMES["baked"], mode="baked")
    assert main(["verify", str(release)]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # unused, and too long
    assert all(r"\x1b[2Jall good\n" in line for line in lines)
    assert max(map(len, lines)) < 1000


def network(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """Return a graph of random `weights` (name -> shape) and 4 classes."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> classifier '
        f"(float[N, 1, 8, 8] image) => (float[N, 4] logits) {{ {text} }}"
    )
    for name, shape in weights.items():
        initializer(name, np.full(shape, 0.5, np.float32))(model)
    return model


ALLOWED = {
    "a kernel of a channel a class": network(
        "maps = Conv (image, kernel) pooled = GlobalMaxPool (maps)logits = Flatten (pooled)",
        kernel=(4, 1, 3, 3),
    ),
    "scales of a channel a class": network(
        "maps = Conv (image, kernel) scaled = Mul (maps, scale)"
        "pooled = GlobalMaxPool (scaled) logits = Flatten (pooled)",
        kernel=(4, 1, 3, 3),
        scale=(4, 1, 1),
    ),
    "places as many as classes": network(
        "flat = Flatten (image) wide = Gemm (flat, first)"
        "shape = Constant <value_ints = [-1, 4, 3]> ()"
        "tokens = Reshape (wide, shape) placed = Add (tokens, places) logits = ReduceSum"
        "<keepdims = 0> (placed, axis)",
        first=(64, 12),
        places=(1, 4, 3),
    ),
    "a lookup of something else": network(
        "row = Constant <value_int = 1> () bias = Gather (biases, row)"
        "flat = Flatten (image) raw = Gemm (flat, weight) logits = Add (raw, bias)",
        weight=(64, 4),
        biases=(9, 4),
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_weights_are_not_taken_for_gates(case: str) -> None:
    model = ALLOWED[case]
    if "axis" in {name for n in model.graph.node for name in n.input}:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axis"))
    facts = record(mode="baked")
    assert violations(model, facts.inputs, facts.outputs) == []


def test_the_graph_that_they_are_made_of_is_allowed(tmp_path: Path) -> None:
    facts = read_record(whole_release(tmp_path / "r") / "release.json")
    assert violations(graph("baked"), facts.inputs, facts.outputs) == []
