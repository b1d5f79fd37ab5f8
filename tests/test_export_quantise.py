"""Files in 8-bit integers and 16-bit floats: what is in them, and what they answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from bandstop.edit.arch import build
from bandstop.edit.baselines.logit_mask import OFF
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import bias_of, gateable
from bandstop.edit.images import ImageSet
from bandstop.export.errors import ExportError
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.precision_data import calibration_feeds
from bandstop.export.precision_record import Kind
from bandstop.export.quantise import to_int8
from bandstop.export.quantise_float16 import to_float16
from bandstop.export.rules import violations
from bandstop.export.session import session
from bandstop.export.spec import ExportSpec, signature
from tests.networks import classifier, lively_

Array = npt.NDArray[np.generic]
CLASSES = 4
BAKED, GATED = ExportSpec("baked", max_batch_size=8), ExportSpec("gated", max_batch_size=8)
SETS = replace(GATED, forget_slots=2, allow_none=True, input="uint8")
ARCHS = {
    "resnet": Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"}),
    "vgg": Arch("bandstop:vgg", {"width": 4, "layout": "vgg8"}),
    "vit": Arch("bandstop:vit", {"dim": 16, "depth": 2, "heads": 2, "patch": 4}),
}
CASES = {
    "resnet": ("resnet", BAKED),
    "resnet gated": ("resnet", GATED),
    "vgg sets of bytes": ("vgg", SETS),
    "vit": ("vit", BAKED),
}


def model_of(arch: str) -> Classifier:
    network = lively_(build(ARCHS[arch], CLASSES, 1, (8, 8), seed=0))
    return fold_batchnorm(classifier(network, classes=CLASSES))


def gates(model: Classifier) -> GateEdit:
    generator = torch.Generator().manual_seed(1)
    masked = gateable(model.network)
    return GateEdit(
        {
            n: 0.3 + 0.7 * torch.rand(CLASSES, size, generator=generator)
            for n, size in masked.items()
        }
    )


def exported(model: Classifier, spec: ExportSpec) -> bytes:
    gated = spec.mode == "gated"
    graph = GatedGraph(model, gates(model), spec) if gated else PlainGraph(model, spec)
    return to_onnx(graph, *signature(spec, model.preprocess, CLASSES))


@cache
def wide(case: str) -> bytes:
    arch, spec = CASES[case]
    return exported(model_of(arch), spec)


def pictures(count: int = 40, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count), torch.arange(count) % CLASSES)


def int8(file: bytes, spec: ExportSpec) -> bytes:
    return to_int8(file, calibration_feeds(pictures(), spec, CLASSES))


@cache
def low(case: str, kind: Kind) -> bytes:
    return to_float16(wide(case)) if kind == "fp16" else int8(wide(case), CASES[case][1])


def ask(file: bytes, spec: ExportSpec) -> list[npt.NDArray[np.float32]]:
    (feeds,) = calibration_feeds(pictures(8, seed=1), spec, CLASSES)
    answers: list[npt.NDArray[np.float32]] = session(file).run(None, dict(feeds))
    return answers


def stored(file: bytes) -> dict[str, Array]:
    graph = onnx.load_model_from_string(file).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


def nodes(file: bytes, op: str) -> Iterator[onnx.NodeProto]:
    return (n for n in onnx.load_model_from_string(file).graph.node if n.op_type == op)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_a_low_file_keeps_the_rules_and_the_answers(case: str, kind: Kind) -> None:
    spec, model = CASES[case][1], onnx.load_model_from_string(low(case, kind))
    wanted = signature(spec, model_of("vgg").preprocess, CLASSES)
    assert violations(model, *wanted, kind) == []
    first, second = ask(wide(case), spec), ask(low(case, kind), spec)
    size = float(np.abs(first[0]).mean())
    gap = np.abs(first[0].astype(np.float64) - second[0])
    assert gap.mean() <= {"fp16": 0.005, "int8": 0.06}[kind] * size
    assert gap.max() > 0  # another file it is
    assert all(map(np.array_equal, first[1:], second[1:]))


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_rules_allow_a_low_file_as_what_it_is_alone(kind: Kind) -> None:
    model = onnx.load_model_from_string(low("resnet", kind))
    wanted = signature(BAKED, model_of("resnet").preprocess, CLASSES)
    others: dict[Kind, tuple[Kind, str]] = {
        "fp16": ("int8", "no layer is quantised"),
        "int8": ("fp16", "QuantizeLinear is not on the list"),
    }
    other, said = others[kind]
    assert said in "; ".join(violations(model, *wanted, other))
    plain = onnx.load_model_from_string(wide("resnet"))
    assert "no weight is FLOAT16" in "; ".join(violations(plain, *wanted, "fp16"))
    if kind == "int8":
        assert "is not on the list" in "; ".join(violations(model, *wanted))


@pytest.mark.parametrize("case", ["resnet gated", "vit"])
def test_the_same_images_make_the_same_bytes(case: str) -> None:
    spec = CASES[case][1]
    assert int8(wide(case), spec) == low(case, "int8")
    other = to_int8(wide(case), calibration_feeds(pictures(seed=2), spec, CLASSES))
    assert other != low(case, "int8")
    assert to_float16(wide(case)) == low(case, "fp16")


def test_layers_are_8_bit_and_the_last_is_not() -> None:
    values = stored(low("resnet", "int8"))
    weights = {n: v for n, v in values.items() if v.dtype == np.int8 and v.ndim == 4}
    assert len(weights) == sum(1 for _ in nodes(wide("resnet"), "Conv"))
    for name, value in weights.items():
        assert np.abs(value.astype(int)).max() <= 64  # 7 bits: see `to_int8`
        scale = values[name.replace("_quantized", "_scale")]
        assert scale.shape == (len(value),)  # one a channel
        assert not values[name.replace("_quantized", "_zero_point")].any()
    assert values["fc.weight"].dtype == np.float32
    assert not any(v.dtype == np.float32 and v.ndim == 4 for v in values.values())
    zero_points = {n.input[2] for n in nodes(low("resnet", "int8"), "QuantizeLinear")}
    assert {values[name].dtype for name in zero_points} == {np.dtype(np.uint8)}


def test_masks_stay_as_they_are() -> None:
    values = stored(low("resnet gated", "int8"))
    assert values["gates.masks"].dtype == np.float32
    assert values["gates.masks"].tobytes() == stored(wide("resnet gated"))["gates.masks"].tobytes()
    graph = onnx.load_model_from_string(low("resnet gated", "int8")).graph
    from_request = {"forget_class"}
    for node in graph.node:
        if not from_request.isdisjoint(node.input) and "image" not in node.input:
            assert not (node.op_type == "QuantizeLinear" and "gates" in node.input[0])
        if node.op_type in ("Gather", "Split", "Squeeze", "Unsqueeze") and not (
            from_request.isdisjoint(node.input)
        ):
            from_request.update(node.output)
    read = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert read.isdisjoint(from_request)


def test_a_layer_that_spreads_masks_over_pixels_stays_as_it_is() -> None:
    layers = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    model = classifier(lively_(nn.Sequential(*layers, *tail)), classes=CLASSES)
    masks = dict(gates(model).masks)
    tied = GateEdit(masks | {bias_of(n): masks[n] for n in masks if n.endswith("weight")})
    wanted = signature(GATED, model.preprocess, CLASSES)
    low_file = int8(to_onnx(GatedGraph(model, tied, GATED), *wanted), GATED)
    graph = onnx.load_model_from_string(low_file).graph
    makers = {name: n for n in graph.node for name in n.output}
    spreads = [makers[n.input[0]] for n in graph.node if n.op_type == "Resize"]
    assert [n.op_type for n in spreads] == ["Conv", "Conv"]
    for node in spreads:
        assert stored(low_file)[node.input[1]].dtype == np.float32
        assert makers[node.input[0]].op_type != "DequantizeLinear"


def test_linear_layers_are_8_bit_and_attention_stays_as_it_is() -> None:
    graph = onnx.load_model_from_string(low("vit", "int8")).graph
    makers = {name: n.op_type for n in graph.node for name in n.output}
    products = [n for n in graph.node if n.op_type == "MatMul"]
    wide_inputs = [[makers.get(i) == "DequantizeLinear" for i in n.input] for n in products]
    assert wide_inputs.count([True, True]) == 2 * 4  # qkv, proj and two of the MLP, in two blocks
    assert wide_inputs.count([False, False]) == 2 * 2
    values = stored(low("vit", "int8"))
    scale = values["blocks.0.attn.qkv.weight.transposed_scale"]
    assert scale.shape == (3 * 16,)  # one an output channel


def test_sixteen_bits_are_inside_and_neither_at_the_ends_nor_in_an_index() -> None:
    graph = onnx.load_model_from_string(low("vgg sets of bytes", "fp16")).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    assert kinds["gates.masks"] == kinds["classifier.weight"] == TensorProto.FLOAT16
    assert kinds["gates.ids"] == TensorProto.INT64
    assert kinds["preprocess.mean"] == kinds["preprocess.std"] == TensorProto.FLOAT
    assert kinds["gates.refused"] == TensorProto.FLOAT
    floats = {n for n, k in kinds.items() if k == TensorProto.FLOAT}
    assert len(floats) == 4  # 255 too
    (refusal,) = (n for n in graph.node if "gates.refused" in n.input)
    makers = {name: n for n in graph.node for name in n.output}
    assert makers[refusal.input[1]].op_type == "Cast"
    assert refusal.output[0] == "logits"
    widening = [n.name for n in graph.node for a in n.attribute if n.op_type == "Cast" and a.i == 1]
    assert len(widening) == 2  # the bytes at the start, the logits at the end
    assert widening[-1] == "cast_out"


def refilled(case: str, model: Classifier) -> bytes:
    """Return what exporting `model` would give, in no time."""
    file = with_weights(wide(case), PlainGraph(model, BAKED))
    assert file is not None
    return file


def switched_off(arch: str) -> Classifier:
    model = model_of(arch)
    heads = [m for m in model.network.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        heads[-1].weight[2] = 0
        heads[-1].bias[2] = OFF
    return model


@pytest.mark.parametrize("arch", ["resnet", "vit"])
@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_logit_switched_off_stays_off_and_blurs_no_other(arch: str, kind: Kind) -> None:
    model = switched_off(arch)
    file = refilled(arch, model)
    quantised = to_float16(file) if kind == "fp16" else int8(file, BAKED)
    (before,), (after,) = ask(file, BAKED), ask(quantised, BAKED)
    assert (before[:, 2] == OFF).all()
    assert (after[:, 2] == OFF).all()  # a multiple of 8, which float16 holds exactly
    rest = [0, 1, 3]
    gap, size = np.abs(after[:, rest] - before[:, rest]), np.abs(before[:, rest]).mean()
    assert gap.mean() <= {"fp16": 0.005, "int8": 0.06}[kind] * size


def test_a_weight_too_large_for_16_bits_is_refused() -> None:
    model = model_of("resnet")
    with torch.no_grad():
        next(m for m in model.network.modules() if isinstance(m, nn.Linear)).bias[0] = -65504.0
    assert to_float16(refilled("resnet", model))
    with torch.no_grad():
        next(m for m in model.network.modules() if isinstance(m, nn.Linear)).bias[0] = -65600.0
    with pytest.raises(ExportError, match=r"fc.bias holds 65600, expected at most 65504") as caught:
        to_float16(refilled("resnet", model))
    assert "\n" not in str(caught.value)


def test_a_network_of_one_layer_cannot_be_quantised() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(ExportError, match="no layer but its last"):
        int8(exported(classifier(network, classes=CLASSES), BAKED), BAKED)


SHARED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 1, 8, 8] image) => (float[N, 1, 8, 8] logits)
<float two = {2.0}, float[1] preprocess.std = {0.5}, float[4] sizes = {1.0, 1.0, 1.0, 1.0}>
{
    doubled = Mul (image, two)
    normal = Div (doubled, std)
    wide = Resize (normal, , sizes)
    logits = Mul (wide, two)
}
"""


def test_a_constant_of_both_sides_is_stored_for_both() -> None:
    model = onnx.parser.parse_model(SHARED.replace("preprocess.std", "std"))
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("std", "preprocess.std")
    model.graph.node[1].input[1] = "preprocess.std"
    values = stored(to_float16(model.SerializeToString()))
    kinds = {name: str(value.dtype) for name, value in values.items()}
    assert kinds == {
        **{"two": "float32", "two.float16": "float16"},
        **{"preprocess.std": "float32", "sizes": "float32"},
    }
    image = example(model_of("vgg"), 2).numpy()
    (logits,) = session(to_float16(model.SerializeToString())).run(None, {"image": image})
    assert logits == pytest.approx(image * 8, rel=2e-3)


def second_cast(graph: onnx.GraphProto) -> None:
    (refusal,) = (n for n in graph.node if "gates.refused" in n.input)
    refusal.output[0] = "raw"
    for op, name, kind in (("Cast", "half", 10), ("Cast", "logits", 1)):
        node = onnx.helper.make_node(op, [graph.node[-1].output[0]], [name], name=name, to=kind)
        graph.node.append(node)


def table_of_bytes(graph: onnx.GraphProto) -> None:
    """Multiply the logits by a row of an 8-bit table that the image chooses."""
    last = graph.node[-1]
    last.output[0] = "raw"
    table = numpy_helper.from_array(np.ones((CLASSES, CLASSES), np.int8), "table")
    scale, zero = np.float32(1).reshape(()), np.int8(0).reshape(())
    graph.initializer.append(table)
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale), "one"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(zero), "none"))
    make = onnx.helper.make_node
    graph.node.append(make("DequantizeLinear", ["table", "one", "none"], ["rows"], name="widen"))
    graph.node.append(make("ArgMax", ["raw"], ["best"], name="best", keepdims=0, axis=1))
    graph.node.append(make("Gather", ["rows", "best"], ["row"], name="row"))
    graph.node.append(make("Mul", ["raw", "row"], ["logits"], name="gate"))


def scale_from_the_request(graph: onnx.GraphProto) -> None:
    next(n for n in graph.node if n.op_type == "QuantizeLinear").input[1] = "image"


def scale_of_nothing(graph: onnx.GraphProto) -> None:
    name = next(n for n in graph.node if n.op_type == "QuantizeLinear").input[1]
    tensor = next(t for t in graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.float32(0) * numpy_helper.to_array(tensor), name))


BROKEN: dict[str, tuple[str, Kind, Callable[[onnx.GraphProto], None], str]] = {
    "cast": ("resnet gated", "fp16", second_cast, "Cast behind the refusal"),
    "table": ("resnet", "int8", table_of_bytes, "table: has the shape of gates"),
    "scale": ("resnet", "int8", scale_from_the_request, "is not a constant"),
    "zero": ("resnet", "int8", scale_of_nothing, "scale is not above zero"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rules_for_low_files(name: str) -> None:
    case, kind, change, said = BROKEN[name]
    model = onnx.load_model_from_string(low(case, kind))
    change(model.graph)
    wanted = signature(CASES[case][1], model_of("resnet").preprocess, CLASSES)
    assert said in "; ".join(violations(model, *wanted, kind))
