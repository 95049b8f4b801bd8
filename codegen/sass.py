"""Machine code as text and as a histogram: what ``--emit=sass`` prints and what the SASS budget tests count."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from attncc.codegen.toolchain import disassembler
from attncc.diagnostics import ToolchainError

# "        /*0040*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], ... ;"
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Z0-9_]*)([.\w]*)", re.MULTILINE)
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\S+?),", re.MULTILINE)


def disassemble(cubin: bytes, *, lines: bool = False) -> str:
    """The SASS of a cubin; ``lines`` interleaves the source lines it came from.

    Raises ToolchainError A1008 when nvdisasm is not installed, A1009 when it refuses the cubin.
    """
    tool = disassembler("nvdisasm")
    with tempfile.TemporaryDirectory(prefix="attncc-sass-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "--print-code", *(["--print-line-info"] if lines else []), str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise ToolchainError(
            "A1009",
            "nvdisasm refused the cubin",
            got=(run.stderr or run.stdout).strip()[:500],
            help="nvdisasm must be at least as new as the compiler: pip install -U nvidia-cuda-nvdisasm",
        )
    return run.stdout


def histogram(sass: str, entry: str | None = None) -> Counter[str]:
    """How often each opcode stands in the SASS (``HMMA``, ``HGMMA``, ``MUFU``, ``LDS``, ``LDL``, ``STL``).

    ``entry`` counts one kernel alone; a name that is not there gives an empty histogram.
    """
    if entry is not None:
        sections = list(_SECTION.finditer(sass))
        bounds = [*(match.start() for match in sections), len(sass)]
        sass = "".join(sass[bounds[i] : bounds[i + 1]] for i, match in enumerate(sections) if match[1] == entry)
    return Counter(match[1] for match in _INSTRUCTION.finditer(sass))
