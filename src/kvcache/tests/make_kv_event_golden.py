"""Writes kv_event_golden.txt: batches as other programs pack them, one "name hex" a line.

    cd src/kvcache/tests && /usr/bin/python3 make_kv_event_golden.py > kv_event_golden.txt

Python's msgpack has no part in our code, so it is the witness that encoder and decoder aren't only
each other's.
"""

import msgpack

TOKENS = list(range(1, 5))
DIGEST = bytes(range(32))  # As a SHA-256: its low 64 bits are 0x18191a1b1c1d1e1f.

STORED = ["BlockStored", [11, 2**64 - 1], 7, TOKENS, 2, None, "GPU", None]
REMOVED = ["BlockRemoved", [11], "GPU"]
CLEARED = ["AllBlocksCleared"]


def stored_map(**more):
    names = ["type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
             "medium", "lora_name"]
    return dict(zip(names, STORED)) | more


def removed_map(**more):
    return dict(zip(["type", "block_hashes", "medium"], REMOVED)) | more


CASES = {
    # What our encoder must write, byte for byte.
    "arrays": [1.5, [STORED, REMOVED, CLEARED]],
    "arrays_rank": [1.5, [CLEARED], 3],
    "arrays_group_extra": [1.5, [STORED[:7] + ["sql", [["sql", "salt"], ["sql"]], 2],
                                 REMOVED + [2]]],
    "arrays_group": [1.5, [STORED + [None, 2]]],
    "arrays_lora_id": [1.5, [STORED[:5] + [9, "CPU", None]]],
    "array_of_maps": [1.5, [stored_map(), removed_map(), {"type": "AllBlocksCleared"}]],
    "maps": {"ts": 1.5, "events": [stored_map(group_idx=2), removed_map(group_idx=2)],
             "data_parallel_rank": 3},
    # What only others write.
    "vllm_first": [1.5, [["BlockStored", [11], None, TOKENS, 4, None], ["BlockRemoved", [11]]]],
    "vllm_bytes": [1.5, [["BlockStored", [DIGEST], DIGEST, TOKENS, 4, None, "GPU", None]]],
    "vllm_newest": [1.5, [STORED + [None, 0, "sliding_window", 128, {"new": [1, {}]}],
                          REMOVED + [0, [1]]]],
    "vllm_map_newest": {"events": [stored_map(kv_cache_spec_kind="full_attention",
                                              kv_cache_spec_sliding_window=None)],
                        "ts": 2, "publisher": "x", "data_parallel_rank": None},
    "vllm_map_type_last": [1.5, [{"block_hashes": [11], "medium": "CPU", "type": "BlockRemoved"}]],
    "vllm_offload": [1.5, [["BlockStored", [DIGEST], None, [], 0, None, "CPU", None]]],
    "vllm_images": [1.5, [STORED + [[["img-a", ["img-b", 17]], None]]]],
    "sglang": [1.5, [["BlockStored", [-2], -3, [5], 1, None], ["BlockRemoved", [-2]]], 0],
    "sglang_pinned": [1.5, [["BlockStored", [-2], None, [5], 1, None, "CPU_PINNED"]]],
    "sglang_pairs": [1.5, [["BlockStored", [4], None, [[5, 6], [6, 7]], 2, None]]],
    "disk": [1.5, [["BlockRemoved", [11], "DISK"]]],
    "old_raw": [1.5, [["BlockRemoved", [DIGEST[-8:]]]]],  # Packed as text, not as bytes.
    "unknown_tag": [1.5, [["BlockMoved", [1], {"to": 2}], {"type": "BlockMoved", "x": [1]},
                          CLEARED]],
    "wrong_count": [1.5, [["BlockStored", [11], None, [1, 2, 3], 2, None, "GPU", None]]],
    "wide_token": [1.5, [["BlockStored", [11], None, [2**32], 1, None, "GPU", None]]],
    "float32_time": None,
    "empty": [1.5, []],
    # What nobody should write.
    "bad_tag": [1.5, [[1, 2]]],
    "bad_no_type": [1.5, [{"block_hashes": [1]}]],
    "bad_event": [1.5, [7]],
    "bad_events": [1.5, 7],
    "bad_short": [1.5],
    "bad_hash": [1.5, [["BlockRemoved", [1.25]]]],
    "bad_empty_hash": [1.5, [["BlockRemoved", [b""]]]],
    "bad_hashes": [1.5, [["BlockRemoved", None]]],
    "bad_no_hashes": [1.5, [["BlockRemoved"]]],
    "bad_parent": [1.5, [["BlockStored", [1], [], [1], 1]]],
    "bad_medium": [1.5, [["BlockRemoved", [1], 3]]],
    "bad_block_size": [1.5, [["BlockStored", [1], None, [1], -1]]],
    "bad_scalar": 7,
}

for name, value in CASES.items():
    if name == "float32_time":
        packed = msgpack.packb([1.5, [CLEARED]], use_single_float=True)
    else:
        packed = msgpack.packb(value, use_bin_type=name != "old_raw")
    print(name, packed.hex())
