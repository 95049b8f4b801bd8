"""Codes A09: files, the cache and kernels on disk."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0901": Entry(
        "not the text of an IR",
        """
A text that should hold a variant's IR does not read back: a value is used above its assignment, a statement or an
operation is unknown, or a line ends too early. `attncc check --print-ir` prints the form, and docs/ir.md describes it:

    variant causal
    %0 = coord k
    %1 = coord q
    %2 = le %0 %1
    branch
      mask %2
""",
    ),
    "A0910": Entry(
        "no kernel there",
        """
A compiled kernel is a folder with `manifest.json` and a cubin for each entry: `main.cubin`, `merge.cubin`.
""",
    ),
    "A0911": Entry(
        "a damaged kernel",
        """
A kernel's manifest and code are covered by hashes, and one of them does not match: a disk error, or a file changed by
hand. Entries of the cache are moved aside and built again by themselves; a folder of your own has to be made again.
""",
    ),
    "A0912": Entry(
        "a kernel of another version of attncc",
        """
The manifest was written in a form this version does not read. Compile the variant again.
""",
    ),
    "A0920": Entry(
        "a file cannot be opened",
        """
A file or folder named on the command line is missing, is of the other kind, or may not be read or written. The message
says which. Output files are written whole or not at all, beside their final place, so their folder must be writable.
""",
    ),
    "A0921": Entry(
        "not a tensor file",
        """
`--input NAME=FILE` reads `.npy` files, as `numpy.save` writes them, and `.safetensors` files. Of a file with several
tensors, name one after a colon:

    attncc run alibi.attn --input slopes=model.safetensors:layers.0.slopes
""",
    ),
}
