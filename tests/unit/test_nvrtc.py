"""The NVRTC driver: cubins and PTX without a GPU, the log as data, and every way the environment can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attncc.codegen import nvrtc, toolchain
from attncc.codegen.sass import disassemble, histogram
from attncc.codegen.targets import TARGETS, best, target
from attncc.diagnostics import ToolchainError, UnsupportedError

KERNEL = """
extern "C" __global__ void attncc_main(float* x) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x ^ 1];
}
"""


@pytest.mark.parametrize("arch", sorted(TARGETS))
def test_every_target_gives_a_cubin_of_that_architecture(arch: str) -> None:
    made = nvrtc.compile_cuda(KERNEL, arch=arch)
    assert made.cubin[:4] == b"\x7fELF"
    assert f".target {arch}" in made.ptx.decode()
    resources = made.resources["attncc_main"]
    assert resources.static_smem == 64 * 4
    assert 0 < resources.registers <= 32
    assert (resources.spill_stores, resources.spill_loads, resources.stack) == (0, 0, 0)
    assert made.warnings == ()


def test_device_headers_are_found() -> None:
    source = '#include "device/joint.cuh"\nextern "C" __global__ void k(int* x) { *x = sizeof(attncc::Launch); }'
    assert nvrtc.compile_cuda(source, arch="sm_80").cubin


def test_an_unused_variable_is_a_warning_and_not_an_error() -> None:
    source = '#line 7 "gemma2.attn"\nextern "C" __global__ void k(int* x) { int unused = 1; *x = 2; }'
    (warning,) = nvrtc.compile_cuda(source, arch="sm_80").warnings
    assert warning.startswith('gemma2.attn(7): warning #177-D: variable "unused"')


def test_a_refused_text_names_the_line_of_the_variant() -> None:
    source = '#line 3 "gemma2.attn"\nextern "C" __global__ void k(int* x) { *x = softcap; }'
    with pytest.raises(ToolchainError) as caught:
        nvrtc.compile_cuda(source, arch="sm_80")
    assert caught.value.code == "A1006"
    assert "gemma2.attn:3" in caught.value.message
    assert 'identifier "softcap" is undefined' in caught.value.notes[0].text


def test_the_log_of_ptxas_is_read_by_entry() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'attncc_b' for 'sm_90a'
ptxas info    : Function properties for attncc_b
ptxas         .     744 bytes stack frame, 3112 bytes spill stores, 21240 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 744 bytes cumulative stack size, 512 bytes smem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...
ptxas info    : Compiling entry function 'attncc_main' for 'sm_90a'
ptxas info    : Function properties for attncc_main
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers
"""
    assert nvrtc.parse_resources(log) == {
        "attncc_b": nvrtc.Resources(32, 3112, 21240, 744, 512, 1),
        "attncc_main": nvrtc.Resources(10),
    }
    (serialised,) = nvrtc.parse_warnings(log)
    assert "C7510" in serialised


def test_sass_counts_the_instructions_of_one_entry() -> None:
    two = KERNEL + 'extern "C" __global__ void other(float* x) { *x = __sinf(*x) + __cosf(*x); }'
    sass = disassemble(nvrtc.compile_cuda(two, arch="sm_90a").cubin)
    main, other = histogram(sass, "attncc_main"), histogram(sass, "other")
    assert (main["LDS"], main["STS"], main["MUFU"]) == (1, 1, 0)
    assert (other["LDS"], other["MUFU"]) == (0, 2)
    assert histogram(sass)["MUFU"] == 2
    assert not histogram(sass, "missing")


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnsupportedError) as caught:
        target("sm90a")
    assert caught.value.code == "A0701"
    assert caught.value.help == "did you mean `sm_90a`?"


@pytest.mark.parametrize(
    ("capability", "arch"),
    [((8, 0), "sm_80"), ((8, 7), "sm_86"), ((9, 0), "sm_90a"), ((10, 3), "sm_100"), ((12, 1), "sm_120")],
)
def test_a_gpu_gets_the_newest_target_that_runs_on_it(capability: tuple[int, int], arch: str) -> None:
    assert best(capability) == arch


@pytest.mark.parametrize("capability", [(7, 5), (11, 0)])
def test_a_gpu_without_a_target_is_named(capability: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedError, match=r"A0707"):
        best(capability)


# The environment, as a table of what is installed and the error that says so ------------------------------------------

GOOD = {"cuda-bindings": "13.0.3", "nvidia-cuda-nvrtc": "13.0.88"}
WRONG = [
    ("A1001", {"nvidia-cuda-nvrtc": "13.0.88"}, "pip install 'attncc[cuda13]'"),
    ("A1003", {"cuda-bindings": "13.0.3", "nvidia-cuda-nvrtc-cu12": "12.9.86"}, "pip uninstall nvidia-cuda-nvrtc-cu12"),
    ("A1003", {"cuda-bindings": "12.9.2", "nvidia-cuda-nvrtc": "13.0.88"}, "pip uninstall nvidia-cuda-nvrtc"),
    ("A1004", {"cuda-bindings": "13.0.3", "nvidia-cuda-nvrtc": "13.5.1"}, "pip install 'attncc[cuda13]'"),
    ("A1004", {"cuda-bindings": "11.8.0", "nvidia-cuda-nvrtc": "13.0.88"}, "pip install 'attncc[cuda13]'"),
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> object:
    """Replaces what is installed by a table of versions."""

    def install(table: dict[str, str]) -> None:
        made = {name: toolchain.Wheel(name, version, Path("/nowhere")) for name, version in table.items()}
        monkeypatch.setattr(toolchain, "wheels", lambda: made)
        toolchain.toolchain.cache_clear()

    yield install
    toolchain.toolchain.cache_clear()


@pytest.mark.parametrize(("code", "table", "help"), WRONG)
def test_a_wrong_environment_is_named_with_the_way_out(
    installed: object, code: str, table: dict[str, str], help: str
) -> None:
    installed(table)  # type: ignore[operator]
    with pytest.raises(ToolchainError) as caught:
        toolchain.toolchain()
    assert caught.value.code == code
    assert help in (caught.value.help or "")


def test_an_environment_without_nvrtc_says_so(installed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    installed({"cuda-bindings": "13.0.3"})  # type: ignore[operator]
    (problem,) = toolchain.problems()
    assert problem.code == "A1002"
    assert "pip install" in (problem.help or "")


def test_another_compiler_in_the_process_is_refused(installed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda.bindings import nvrtc as library

    monkeypatch.setattr(library, "nvrtcVersion", lambda: (0, 13, 5))
    with pytest.raises(ToolchainError, match="A1004"):
        nvrtc.compile_cuda(KERNEL, arch="sm_90a")


@pytest.mark.parametrize("table", [GOOD, {"cuda-bindings": "12.9.2", "nvidia-cuda-nvrtc-cu12": "12.9.86"}])
def test_a_right_environment_is_known_without_loading_the_compiler(installed: object, table: dict[str, str]) -> None:
    installed(table)  # type: ignore[operator]
    assert toolchain.toolchain().nvrtc == next(v for name, v in table.items() if "nvrtc" in name)


def test_the_version_in_cache_keys_is_the_library_s_own() -> None:
    from cuda.bindings import nvrtc as library

    _, major, minor = library.nvrtcVersion()
    assert toolchain.toolchain().nvrtc.startswith(f"{major}.{minor}")
