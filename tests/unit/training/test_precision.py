import pytest
import torch

from kd3d.errors import UsageError
from kd3d.training import precision
from kd3d.training.precision import resolve_precision

CPU = torch.device("cpu")


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match=r"fp16 training needs a GPU. Use precision bf16 or fp32"):
        resolve_precision("fp16", CPU)


def test_bf16_falls_back_with_a_warning_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    with pytest.warns(UserWarning, match="cpu has no bf16 arithmetic; training in fp32"):
        assert resolve_precision("bf16", CPU).name == "fp32"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_matrix_products_run_in_the_precision(monkeypatch, name, dtype):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    with resolve_precision(name, CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not resolve_precision(name, CPU).scaler().is_enabled()


@pytest.mark.parametrize(
    ("found", "has"), [({"avx512_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False), ({}, False)]
)
def test_bf16_is_read_from_the_processors_capabilities(monkeypatch, found, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert precision.cpu_has_bf16() is has
