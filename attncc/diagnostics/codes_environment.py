"""Codes A10: environment and toolchain."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A1001": Entry(
        "cuda-bindings is missing",
        """
Compiling and launching go through NVIDIA's Python bindings.

    pip install 'attncc[cuda13]'     # compile and run
    pip install 'attncc[compile]'    # compile only; needs no GPU
""",
    ),
    "A1002": Entry(
        "NVRTC is missing",
        """
The CUDA run-time compiler comes as the wheel `nvidia-cuda-nvrtc`, which every extra of attncc brings, or with a CUDA
toolkit. `attncc env` shows what is found.
""",
    ),
    "A1003": Entry(
        "wheels of two CUDA majors",
        """
cuda-bindings and NVRTC are of different CUDA majors; wheels whose name ends in `-cu12` are for CUDA 12, those without
for CUDA 13. Uninstall the one that the message names, then install one extra: `attncc[cuda13]` or `attncc[cuda12]`.
""",
    ),
    "A1004": Entry(
        "another CUDA toolkit than the pinned one",
        """
Another NVRTC generates other code from the same source, with other registers and spills, and attncc's kernels are
measured with one: 13.0 for CUDA 13, 12.9 for CUDA 12. Installing an extra of attncc brings it; it lives beside a newer
toolkit and driver without disturbing them.
""",
    ),
    "A1005": Entry(
        "CUDA headers are missing",
        """
The kernel includes a header of the CUDA toolkit. It comes with the wheel `nvidia-cuda-runtime`, which every extra of
attncc brings.
""",
    ),
    "A1006": Entry(
        "NVRTC refused generated code",
        """
attncc wrote CUDA that does not compile. This is a defect of attncc and not of the variant; the log in the message and
the output of `attncc compile --emit=cuda` are what a report needs.
""",
    ),
    "A1007": Entry(
        "NVRTC failed",
        """
NVRTC could not start: out of memory, or a damaged installation. Reinstall the wheel `nvidia-cuda-nvrtc`.
""",
    ),
    "A1008": Entry(
        "no disassembler",
        """
`--emit=sass` needs `nvdisasm`: `pip install 'attncc[sass]'`, or a CUDA toolkit on PATH.
""",
    ),
    "A1009": Entry(
        "nvdisasm refused a cubin",
        """
The disassembler is older than the compiler. `pip install -U nvidia-cuda-nvdisasm`.
""",
    ),
    "A1010": Entry(
        "no CUDA driver",
        """
Kernels run on NVIDIA's driver (`libcuda.so.1`). Compiling needs none, and CPU tensors run the reference.
""",
    ),
    "A1011": Entry(
        "no GPU",
        """
There is a driver or none, and no GPU that it shows; CUDA_VISIBLE_DEVICES may hide it. The reference runs on the CPU:
`attncc run FILE --device cpu`.
""",
    ),
    "A1012": Entry(
        "no library for this dtype on the GPU",
        """
`attncc run` needs tensors on the GPU: torch with CUDA for every dtype, cupy for f16.
""",
    ),
    "A1013": Entry(
        "the CUDA driver refused a call",
        """
The driver's status is in the message. After `CUDA_ERROR_ILLEGAL_ADDRESS` or a similar one, an earlier kernel of this
process failed, attncc's or another's; CUDA_LAUNCH_BLOCKING=1 shows which. A captured tensor or a length on the device
that does not fit the call is a likely cause, since values on the device are trusted.
""",
    ),
    "A1020": Entry(
        "Pillow is missing",
        """
`attncc viz -o mask.png` writes PNG with Pillow: `pip install 'attncc[viz]'`. SVG and the terminal need nothing.
""",
    ),
}
