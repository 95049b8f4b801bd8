"""Binding: values meet parameters, shapes meet dims, and each mistake says what was expected and what came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attncc
from attncc import F32, I32, At, Bool, Const, Hooks, Key, Query, Tensor, UInt32, dot, hooks, require, tanh
from attncc.binding import VariantFactory, as_bound, bind_extents, check_requires, refuses_starts, storage_of
from attncc.diagnostics import CallError
from attncc.diagnostics.catalogue import catalogue
from attncc.ir import build, nodes
from attncc.ir.nodes import Coord, Extent, Param, ParamDecl, Reduce, Require, Variant
from attncc.ir.types import Storage, Type

BASE = {"batch": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "head_dim_v": 64, "qo_len": 5, "kv_len": 9}


@attncc.variant
def gemma2(at: At, *, softcap: float = 50.0, window: int = 4096) -> Hooks:
    return hooks(logits=softcap * tanh(at.score / softcap), mask=(at.q >= at.k) & (at.q - at.k < window))


@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]) -> Hooks:
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))


@attncc.variant
def dilated(at: At, *, step: Const[int] = 2, bits: UInt32 = 0) -> Hooks:
    return hooks(mask=((at.q - at.k) % step == 0) & (bits < 7))


@attncc.variant
def documents(at: At, *, doc: I32[Tensor, "batch, kv_len"]) -> Hooks:
    return hooks(mask=doc[at.b, at.own] == doc[at.b, at.col])


@attncc.variant
def tables(at: At, *, big: F32[Tensor, "num_heads, 2 * n + 1"], small: F32[Tensor, "n, head_dim // 2"]) -> Hooks:
    return hooks(logits=at.score + big[at.h, at.q] + small[at.q, 0])


def failure(code: str, run: object) -> CallError:
    assert callable(run)
    with pytest.raises(CallError) as caught:
        run()
    assert caught.value.code == code
    assert code in catalogue()
    assert caught.value.help
    return caught.value


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def test_defaults_and_given_values_are_bound_as_they_are() -> None:
    slopes = zeros(4)
    assert gemma2().params == {"softcap": 50.0, "window": 4096}
    assert gemma2(softcap=30).params == {"softcap": 30.0, "window": 4096}
    assert alibi(slopes=slopes).tensors["slopes"] is slopes


def test_parameters_do_not_make_new_variants_and_constants_do() -> None:
    assert gemma2(softcap=30.0).variant is gemma2().variant
    assert dilated(step=2).variant is dilated().variant
    assert dilated(step=3).variant != dilated(step=2).variant
    assert dilated(step=3).constants == {"step": 3}
    assert [declared.name for declared in dilated().variant.params] == ["bits"]


def test_a_constant_without_default_must_be_given() -> None:
    @attncc.variant
    def power(at: At, *, p: Const[float]) -> Hooks:
        return hooks(logits=at.score**p)

    assert power(p=2).constants == {"p": 2.0}
    assert "`p`" in failure("A0803", lambda: power()).message  # type: ignore[call-arg]


def test_numpy_numbers_are_numbers() -> None:
    bound = gemma2(softcap=np.float32(30.0), window=np.int64(7))  # type: ignore[arg-type]
    assert bound.params == {"softcap": 30.0, "window": 7}
    assert type(bound.params["softcap"]) is float
    assert dilated(step=np.int32(3)).constants == {"step": 3}  # type: ignore[arg-type]


def test_one_value_per_request_is_kept_uncopied() -> None:
    caps = np.array([30.0, 50.0], np.float32)
    assert gemma2.bind({"softcap": caps}).params["softcap"] is caps


@pytest.mark.parametrize(
    "values", [np.array([30.0, 50.0]), np.array([[30.0]], np.float32), np.array([1, 2], np.int32)], ids=str
)
def test_per_request_values_have_the_parameters_own_type(values: np.ndarray) -> None:
    error = failure("A0804", lambda: gemma2.bind({"softcap": values}))
    assert error.expected == "a Python number, or f32[batch]"


def test_torch_tensors_bind_by_their_dtype() -> None:
    torch = pytest.importorskip("torch")
    slopes = torch.zeros(4)
    assert alibi(slopes=slopes).tensors["slopes"] is slopes
    assert failure("A0806", lambda: alibi(slopes=slopes.bfloat16())).got == "torch.bfloat16"
    assert {storage_of(torch.zeros(1, dtype=kind)) for kind in (torch.bfloat16, torch.bool, torch.int64)} == {
        Storage.BF16,
        Storage.BOOL,
        Storage.I64,
    }
    assert storage_of(torch.zeros(1, dtype=torch.complex64)) is None


def test_repr_shows_what_is_bound() -> None:
    assert repr(gemma2(softcap=30.0)) == "gemma2(softcap=30.0, window=4096)"
    assert repr(alibi(slopes=zeros(4))) == "alibi(slopes=f32[4])"
    assert repr(dilated()) == "dilated(step=2, bits=0)"
    assert repr(gemma2) == "<variant gemma2>"


def test_mistakes_of_names_and_values() -> None:
    assert failure("A0802", lambda: gemma2(sofcap=30.0)).help == "did you mean `softcap`?"  # type: ignore[call-arg]
    assert "slopes" in failure("A0803", lambda: alibi()).message  # type: ignore[call-arg]
    failure("A0801", lambda: gemma2(30.0))  # type: ignore[call-arg]
    assert failure("A0804", lambda: gemma2(window=4.0)).expected == "i32"  # type: ignore[arg-type]
    assert failure("A0804", lambda: gemma2(window=True)).expected == "i32"
    assert failure("A0804", lambda: gemma2(window=2**31)).got == str(2**31)
    failure("A0804", lambda: dilated(step=zeros(2, dtype="int32")))  # type: ignore[arg-type]
    failure("A0805", lambda: alibi(slopes=[0.5, 0.25]))  # type: ignore[arg-type]
    assert failure("A0806", lambda: alibi(slopes=zeros(4, dtype="float64"))).got == "float64"
    failure("A0809", lambda: alibi(slopes=zeros(4, 1)))


def test_an_uncalled_variant_counts_as_called_with_its_defaults() -> None:
    assert as_bound(gemma2).params == gemma2().params
    bound = gemma2(softcap=1.0)
    assert as_bound(bound) is bound
    failure("A0803", lambda: as_bound(alibi))
    failure("A0808", lambda: as_bound(lambda at: at))  # type: ignore[arg-type]


def test_operands_are_bound_beside_tensors() -> None:
    @attncc.variant
    def mla(at: At, *, q_pe: Query[Tensor, "num_heads, 64"], k_pe: Key[Tensor, "1, 64"]) -> Hooks:
        return hooks(score=at.sm_scale * (dot(at.query, at.key) + dot(q_pe, k_pe)))

    q_pe, k_pe = zeros(2, 5, 4, 64), zeros(2, 9, 1, 64)
    bound = mla(q_pe=q_pe, k_pe=k_pe)
    assert bound.operands == {"q_pe": q_pe, "k_pe": k_pe}
    assert [operand.role for operand in bound.variant.operands] == ["query", "key"]
    failure("A0803", lambda: mla(q_pe=q_pe))  # type: ignore[call-arg]


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path) -> attncc.binding.LoadedModule:
    path = tmp_path / "masks.attn"
    path.write_text(
        "mask causal = q >= k\n"
        "variant causal_only { mask = causal }\n"
        "variant window(const wide: bool = false, w: i32 = 128) { mask = causal and (wide or q - k < w) }\n"
    )
    return attncc.load(path)


def test_a_loaded_variant_is_called_like_a_python_one(module: attncc.binding.LoadedModule) -> None:
    assert list(module) == ["causal_only", "window"]
    assert isinstance(module.window, VariantFactory)
    assert module.window(w=64).params == {"w": 64}
    assert module.window(wide=True).variant.branches == module.causal_only().variant.branches
    assert module["window"] is module.window
    assert failure("A0802", lambda: module.window(v=64)).notes[0].span is not None


def test_a_variant_that_is_not_there(module: attncc.binding.LoadedModule) -> None:
    assert failure("A0807", lambda: module.windw).help == "did you mean `window`?"
    failure("A0807", lambda: module.causal)
    assert "causal_only" in module
    assert not hasattr(module, "__wrapped__")


# Shapes ---------------------------------------------------------------------------------------------------------------


def test_extents_come_from_the_call_and_from_tensors() -> None:
    variant = tables(big=zeros(4, 15), small=zeros(7, 32)).variant
    found = bind_extents(variant, {"big": (4, 15), "small": (7, 32)}, BASE)
    assert found == {**BASE, "n": 7}


def test_shape_mistakes_name_tensor_axis_and_size() -> None:
    variant = tables(big=zeros(4, 15), small=zeros(7, 32)).variant

    def bind(big: tuple[int, ...], small: tuple[int, ...]) -> object:
        return lambda: bind_extents(variant, {"big": big, "small": small}, BASE)

    error = failure("A0810", bind((4, 14), (7, 32)))
    assert "`big`" in error.message
    assert "axis 1" in error.message
    assert error.expected == "n * 2 + 1 = 15"
    assert error.got == "14, of shape [4, 14]"
    assert "axis 0 of `small`" in (error.help or "")
    assert failure("A0810", bind((8, 15), (7, 32))).expected == "num_heads = 4"
    assert failure("A0810", bind((4, 15), (7, 64))).expected == "head_dim // 2 = 32"
    failure("A0809", bind((4,), (7, 32)))


def test_two_tensors_that_disagree_are_both_named() -> None:
    @attncc.variant
    def pair(at: At, *, x: F32[Tensor, "n"], y: Bool[Tensor, "n"]) -> Hooks:
        return hooks(logits=at.score + x[at.q], mask=y[at.k])

    variant = pair(x=zeros(3), y=zeros(4, dtype="bool")).variant
    error = failure("A0810", lambda: bind_extents(variant, {"x": (3,), "y": (4,)}, BASE))
    assert "`y`" in error.message
    assert "axis 0 of `x`" in (error.help or "")


def test_a_size_that_no_axis_binds() -> None:
    """The verifier refuses such a declaration (A0512); the binding does not depend on that."""
    size = build.binary("*", Extent("n"), build.i32(2))
    variant = Variant("unbound", tensors=(nodes.Tensor("x", Storage.F32, (size,)),))
    assert "`n`" in failure("A0811", lambda: bind_extents(variant, {"x": (6,)}, BASE)).message


def test_requires_count_over_sizes() -> None:
    loop = Reduce("all", build.compare(">", Param("n", Type.I32), Coord("i0")), "i0", Extent("num_heads"))
    variant = Variant("v", (ParamDecl("n", Type.I32),), requires=(Require(loop, "n is above every head"),))
    check_requires(variant, {"n": BASE["num_heads"]}, BASE)
    failure("A0812", lambda: check_requires(variant, {"n": BASE["num_heads"] - 1}, BASE))


def test_requires_are_checked_against_parameters_and_sizes() -> None:
    @attncc.variant
    def grouped(at: At, *, w: int = 4, on: bool = True) -> Hooks:
        require(w > 0, "the window is positive")
        require(on & (at.num_heads % at.num_kv_heads == 0), "heads come in groups")
        return hooks(mask=(at.q - at.k < w) & on)

    variant = grouped().variant
    check_requires(variant, {"w": 4, "on": True}, BASE)
    check_requires(variant, {"w": np.array([1, 2], np.int32), "on": True}, BASE)
    error = failure("A0812", lambda: check_requires(variant, {"w": 0, "on": True}, BASE))
    assert "the window is positive" in error.message
    assert error.span is not None
    assert error.span.text == "w > 0"
    assert error.got == "false with w = 0"
    per_request = np.array([1, -2], np.int32)
    error = failure("A0812", lambda: check_requires(variant, {"w": per_request, "on": True}, BASE))
    assert error.got == "false for request 1 with w = -2"
    failure("A0812", lambda: check_requires(variant, {"w": 4, "on": True}, {**BASE, "num_heads": 3}))


def test_a_require_on_a_device_array_is_refused_not_read() -> None:
    @attncc.variant
    def window(at: At, *, w: int = 4) -> Hooks:
        require(w > 0, "the window is positive")
        return hooks(mask=at.q - at.k < w)

    class OnDevice:
        shape = (2,)
        dtype = "int32"

        class device:
            type = "cuda"

    failure("A0813", lambda: check_requires(window().variant, {"w": OnDevice()}, BASE))


def test_positions_as_storage_indices_refuse_starts() -> None:
    @attncc.variant
    def by_position(at: At, *, doc: I32[Tensor, "batch, kv_len"]) -> Hooks:
        return hooks(mask=doc[at.b, at.own] == doc[at.b, at.k - 1])

    assert refuses_starts(documents(doc=zeros(2, 9, dtype="int32")).variant) is None
    assert refuses_starts(gemma2().variant) is None
    reason = refuses_starts(by_position(doc=zeros(2, 9, dtype="int32")).variant)
    assert reason is not None
    assert "`doc`" in reason
    assert "`k`" in reason
    assert "`col`" in reason
