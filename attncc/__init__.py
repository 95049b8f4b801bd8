"""The public names of attncc, each imported on first use; this module itself imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncc.binding import load as load
    from attncc.diagnostics import AttnccError as AttnccError
    from attncc.frontend import *  # noqa: F403 - each name of its __all__ is public here too
    from attncc.frontend import At, Tensor, hooks, variant
    from attncc.runtime.api import attention as attention
    from attncc.runtime.api import compile as compile
    from attncc.runtime.states import State as State
    from attncc.runtime.states import merge_states as merge_states

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
    "attncc.runtime.states": "State merge_states",
}
_OWNERS = {name: module for module, names in _NAMES.items() for name in names.split()}

# What `from attncc import *` brings: nothing that hides a builtin.
__all__ = ["At", "AttnccError", "Tensor", "__version__", "attention", "hooks", "load", "merge_states", "variant"]


if not TYPE_CHECKING:  # a typed __getattr__ would make every misspelt name valid

    def __getattr__(name: str) -> Any:
        if name not in _OWNERS:
            raise AttributeError(f"module 'attncc' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_OWNERS[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWNERS})
