"""Arrays in files: ``.npy`` and ``.safetensors``. Knows no variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attncc.cli.files import file_errors
from attncc.diagnostics import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def load(path: str) -> Array:
    """The array of a ``.npy`` file, or of a ``.safetensors`` file (its only tensor, or the one after a colon).

    Raises ArtifactError A0920 (cannot be opened) and A0921 (is no such file).
    """
    import numpy as np

    name, _, key = path.partition(".safetensors:")
    if key or path.endswith(".safetensors"):
        return _safetensors(f"{name}.safetensors" if key else path, key)
    if not path.endswith(".npy"):
        raise ArtifactError(
            "A0921",
            f"{path} is no tensor file",
            expected=".npy or .safetensors",
            got=path,
            help="numpy.save writes .npy",
        )
    with file_errors(path), open(path, "rb") as file:
        try:
            # Not np.load: that also opens archives and pickles.
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except (ValueError, EOFError, OverflowError, MemoryError) as error:
            raise _damaged(path, error) from error


def _safetensors(path: str, key: str) -> Array:
    import numpy as np

    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ArtifactError(
            "A0921", "reading .safetensors needs the package `safetensors`", help="pip install safetensors"
        ) from error
    with file_errors(path):
        with open(path, "rb"):  # the library's own error does not say which file
            pass
        try:
            with safe_open(path, "np") as file:
                keys = list(file.keys())
                if (key or len(keys) == 1) and (key or keys[0]) in keys:
                    return np.asarray(file.get_tensor(key or keys[0])).astype(_numpy_or_float(file, key or keys[0]))
        except (SafetensorError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
    raise ArtifactError(
        "A0921",
        f"{path} has no tensor `{key}`" if key else f"{path} has {len(keys)} tensors",
        expected="one of " + ", ".join(keys),
        got=key or "none named",
        help=f"name one: {path}:{keys[0]}" if keys else "the file is empty",
    )


def _numpy_or_float(file: Any, key: str) -> Any:
    """numpy's own types stay; bf16 and the like become float32."""
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BOOL": np.bool_}
    name = str(file.get_slice(key).get_dtype())
    if name[0] in "IU" and name[1:].isdigit():
        return np.dtype(("uint" if name[0] == "U" else "int") + name[1:])
    return kinds.get(name, np.float32)


def _damaged(path: str, error: Exception) -> ArtifactError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ArtifactError("A0921", f"{path} cannot be read as a tensor", got=reason, help="write the file again")
