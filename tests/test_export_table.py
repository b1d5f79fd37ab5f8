"""Tables of masks with 16 bits: half the bytes, close to those of 32, and told in the record."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.edits import GateEdit
from bandstop.export.errors import ParityFailed, SpecError
from bandstop.export.graph import GatedGraph, GateTable
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.parity import check_parity
from bandstop.export.rules import check_graph
from bandstop.export.spec import ExportSpec, Table, check_original, signature
from bandstop.export.tolerance import TOLERANCE, WITH_16_BITS
from tests.releases import base, gate_edit

# half the distance of two neighbours below 1
CLOSE: dict[Table, float] = {"float32": 0, "float16": 2**-12, "uint16": 0.5001 / 65535}


@pytest.mark.parametrize("table", CLOSE)
def test_masks_are_read_as_they_were_but_for_rounding(table: Table) -> None:
    masks = torch.rand(5, 1000, generator=torch.Generator().manual_seed(0))
    masks[2, 0], masks[3, 0] = 0.0, 1.0
    _, read, _ = GateTable(masks, 1, table)(torch.arange(5)[:, None])
    assert read.dtype == torch.float32
    assert float((read - masks).abs().max()) <= CLOSE[table]
    assert (read[2, 0], read[3, 0]) == (0, 1)
    _, least, _ = GateTable(masks, 2, table)(torch.tensor([[1, 4]]))
    assert torch.equal(least[0], read[1].minimum(read[4]))


def spec_of(table: Table) -> ExportSpec:
    return ExportSpec("gated", table=table, max_batch_size=8)


@cache
def exported(table: Table) -> bytes:
    model, spec = fold_batchnorm(base()), spec_of(table)
    inputs, outputs = signature(spec, model.preprocess, model.num_classes)
    file = to_onnx(GatedGraph(model, gate_edit(model), spec), inputs, outputs)
    check_graph(file, inputs, outputs)
    return file


def tables(file: bytes) -> list[np.dtype[np.generic]]:
    stored = onnx.load_model_from_string(file).graph.initializer
    return [numpy_helper.to_array(i).dtype for i in stored if i.name == "gates.masks"]


@pytest.mark.parametrize("table", ["float16", "uint16"])
def test_the_file_holds_16_bits_and_the_record_tells_its_tolerance(table: Table) -> None:
    model = fold_batchnorm(base())
    gates, spec, file = gate_edit(model), spec_of(table), exported(table)
    assert tables(file) == [np.dtype(table)]
    record = check_parity(file, model, gates, spec, None)
    assert record.max_abs <= record.tolerance == WITH_16_BITS
    halved = GateEdit({name: mask * 0.9 for name, mask in gates.masks.items()})
    other = with_weights(file, GatedGraph(model, halved, spec))
    assert other is not None
    with pytest.raises(ParityFailed, match=r"expected <= 0\.001"):
        check_parity(other, model, gates, spec, None)


def test_a_table_of_32_bits_keeps_the_smaller_tolerance() -> None:
    model = fold_batchnorm(base())
    spec = spec_of("float32")
    record = check_parity(exported("float32"), model, gate_edit(model), spec, None)
    assert record.tolerance == TOLERANCE < WITH_16_BITS


def test_a_graph_without_gates_has_no_table() -> None:
    with pytest.raises(SpecError, match="table: only for gated"):
        check_original(ExportSpec("original", table="uint16"), 4)


@pytest.mark.parametrize(("there", "wanted"), [("float32", "float16"), ("uint16", "float32")])
def test_a_file_is_not_refilled_with_a_table_of_other_numbers(there: Table, wanted: Table) -> None:
    model = fold_batchnorm(base())
    of_wanted = GatedGraph(model, gate_edit(model), spec_of(wanted))
    assert with_weights(exported(there), of_wanted) is None
    of_there = GatedGraph(model, gate_edit(model), spec_of(there))
    assert with_weights(exported(there), of_there) == exported(there)
