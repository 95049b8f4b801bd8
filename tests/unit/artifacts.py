"""A small artifact for tests of files, cache and launch: real in every field, of code that nobody runs."""

from __future__ import annotations

from attncc.artifact import Abi, Artifact, Capture, Entry, LaunchRule, Manifest, Parameter, TensorMap, Word, digest

CUBIN = bytes(range(256)) * 40
MERGE, SCREEN, TRANSFORM, BIASES = CUBIN[::-1], CUBIN[:100], CUBIN[:200], CUBIN[:300]


def small(key: str = "0" * 32, cubin: bytes = CUBIN) -> Artifact:
    words = (Word("launch.q", "ptr", 0), Word("cap.data", "ptr", 8), Word("cap.value", "f32", 16))
    return Artifact(
        key=key,
        cubins={"main": cubin, "merge": MERGE, "screen": SCREEN, "transform": TRANSFORM, "biases": BIASES},
        manifest=Manifest(
            variant="gemma2",
            family="mma_sm80",
            arch="sm_90a",
            dtype="bf16",
            head_dim=128,
            head_dim_v=128,
            layout="contiguous",
            precise=False,
            tile={"block_m": 128, "block_n": 64},
            entries={
                "main": Entry("attncc_main", 168, 0, 0, 0, 1024),
                "merge": Entry("attncc_merge", 40, 0, 0, 0, 0),
                "screen": Entry("attncc_screen", 48, 0, 0, 0, 8),
                "transform": Entry("attncc_transform", 40, 0, 0, 0, 16384),
                "biases": Entry("attncc_biases", 18, 0, 0, 0, 0),
            },
            merge=LaunchRule(("ceil_div(max_qo_len * num_heads, 4)", "1", "batch"), 128, 0),
            screen=LaunchRule(("ceil_div(max_qo_len * group, 128)", "1", "batch"), 256, 0),
            screen_bytes=1044,
            transform=LaunchRule(("ceil_div(max_qo_len * ceil_div(num_heads, 16), 8)", "1", "batch"), 256, 0),
            transformed=("q",),
            biases=LaunchRule(("ceil_div(max_kv_len, 128)", "num_kv_heads", "batch"), 128, 0),
            biases_per_head=True,
            launch=LaunchRule(("ceil_div(max_qo_len * group, 128)", "num_kv_heads", "batch"), 128, 49152),
            abi=Abi(
                size=320,
                words=words,
                params=(Parameter("cap", "f32", "cap", 50.0),),
                tensors=(Capture("slopes", "f32", ("num_heads",), "slopes"),),
                maps=(TensorMap("k", (64, 128), 128, 64), TensorMap("v", (64, 128), 128, 192)),
            ),
            features=("logits", "mask"),
            own_scale=False,
            alignment=16,
            explicit_starts=True,
            bounds={"ranges": [[0, 1]]},
            toolchain={"nvrtc": "13.0.88"},
            hashes={
                "main": digest(cubin),
                "merge": digest(MERGE),
                "screen": digest(SCREEN),
                "transform": digest(TRANSFORM),
                "biases": digest(BIASES),
            },
        ),
    )
