"""The public names of attncc, each imported on first use; this module itself imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncc.binding import load as load
    from attncc.diagnostics import AttnccError as AttnccError
    from attncc.frontend import (
        BF16 as BF16,
    )
    from attncc.frontend import (
        F16 as F16,
    )
    from attncc.frontend import (
        F32 as F32,
    )
    from attncc.frontend import (
        I8 as I8,
    )
    from attncc.frontend import (
        I16 as I16,
    )
    from attncc.frontend import (
        I32 as I32,
    )
    from attncc.frontend import (
        I64 as I64,
    )
    from attncc.frontend import (
        U8 as U8,
    )
    from attncc.frontend import (
        U32 as U32,
    )
    from attncc.frontend import (
        At as At,
    )
    from attncc.frontend import (
        Bool as Bool,
    )
    from attncc.frontend import (
        Const as Const,
    )
    from attncc.frontend import (
        Hooks as Hooks,
    )
    from attncc.frontend import (
        Key as Key,
    )
    from attncc.frontend import (
        Query as Query,
    )
    from attncc.frontend import (
        Tensor as Tensor,
    )
    from attncc.frontend import (
        UInt32 as UInt32,
    )
    from attncc.frontend import (
        Value as Value,
    )
    from attncc.frontend import (
        abs as abs,
    )
    from attncc.frontend import (
        after as after,
    )
    from attncc.frontend import (
        all_over as all_over,
    )
    from attncc.frontend import (
        any_over as any_over,
    )
    from attncc.frontend import (
        branch as branch,
    )
    from attncc.frontend import (
        clamp as clamp,
    )
    from attncc.frontend import (
        colsum as colsum,
    )
    from attncc.frontend import (
        cos as cos,
    )
    from attncc.frontend import (
        dot as dot,
    )
    from attncc.frontend import (
        erf as erf,
    )
    from attncc.frontend import (
        exp as exp,
    )
    from attncc.frontend import (
        exp2 as exp2,
    )
    from attncc.frontend import (
        expect as expect,
    )
    from attncc.frontend import (
        f32 as f32,
    )
    from attncc.frontend import (
        floor as floor,
    )
    from attncc.frontend import (
        gelu as gelu,
    )
    from attncc.frontend import (
        hooks as hooks,
    )
    from attncc.frontend import (
        i32 as i32,
    )
    from attncc.frontend import (
        log as log,
    )
    from attncc.frontend import (
        log1p as log1p,
    )
    from attncc.frontend import (
        log2 as log2,
    )
    from attncc.frontend import (
        max as max,
    )
    from attncc.frontend import (
        min as min,
    )
    from attncc.frontend import (
        pow as pow,
    )
    from attncc.frontend import (
        relu as relu,
    )
    from attncc.frontend import (
        require as require,
    )
    from attncc.frontend import (
        rotate_half as rotate_half,
    )
    from attncc.frontend import (
        rotate_pairs as rotate_pairs,
    )
    from attncc.frontend import (
        round as round,
    )
    from attncc.frontend import (
        rowmax as rowmax,
    )
    from attncc.frontend import (
        rsqrt as rsqrt,
    )
    from attncc.frontend import (
        sigmoid as sigmoid,
    )
    from attncc.frontend import (
        silu as silu,
    )
    from attncc.frontend import (
        sin as sin,
    )
    from attncc.frontend import (
        softmax as softmax,
    )
    from attncc.frontend import (
        softplus as softplus,
    )
    from attncc.frontend import (
        sqrt as sqrt,
    )
    from attncc.frontend import (
        sum_over as sum_over,
    )
    from attncc.frontend import (
        tanh as tanh,
    )
    from attncc.frontend import (
        u32 as u32,
    )
    from attncc.frontend import (
        variant as variant,
    )
    from attncc.frontend import (
        where as where,
    )

__version__ = "0.1.0"

# The module that owns a public name, imported when the name is first read (PEP 562): `import attncc` costs a few
# milliseconds and loads none of lark, numpy, torch and cupy.
_NAMES = {
    "attncc.binding": "load",
    "attncc.diagnostics": "AttnccError",
    "attncc.frontend": """
        At Hooks Tensor Value branch hooks require softmax variant
        BF16 Bool Const F16 F32 I8 I16 I32 I64 Key Query U8 U32 UInt32
        abs clamp cos dot erf exp exp2 floor gelu log log1p log2 max min pow relu rotate_half rotate_pairs round rsqrt
        sigmoid silu sin softplus sqrt tanh where
        f32 i32 u32
        after all_over any_over colsum expect rowmax sum_over
    """,
    "attncc.runtime.api": "attention compile",
}
_OWNERS = {name: module for module, names in _NAMES.items() for name in names.split()}

# What `from attncc import *` brings: nothing that hides a builtin.
__all__ = ["At", "AttnccError", "Tensor", "__version__", "attention", "hooks", "load", "variant"]


if not TYPE_CHECKING:  # a typed __getattr__ would make every misspelt name valid

    def __getattr__(name: str) -> Any:
        if name not in _OWNERS:
            raise AttributeError(f"module 'attncc' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_OWNERS[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWNERS})
