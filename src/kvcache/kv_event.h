// kvcache/kv_event.h
//
// What an inference engine announces about its KV cache, as a value, and the bytes it travels in.
//
//   ASSIGN_OR_RETURN(const KvEventBatch batch, DecodeKvEventBatch(payload));
//   for (const KvEvent& event : batch.events) ...
//
// All encodings seen in the field are read: vLLM's batches and events as arrays, as arrays of maps
// tagged "type", and as maps throughout; SGLang's arrays, whose hashes may be negative. Fields that
// are unknown are passed over, trailing ones may be absent, and an event of an unknown tag is
// counted in `unknown_events`, since a newer engine may say more than we know. So is a stored block
// whose tokens or extra keys make no sense to us (SGLang's pairs of tokens under EAGLE, a number of
// tokens that isn't blocks times block size): it is kept without tokens, which means that it is not
// claimed as held. What contradicts the format itself makes the batch kInvalid as a whole, since
// applying half of it would leave books that nobody announced.
// docs/formats/kv-events.md has the wire format.
//
// An engine's hash is an integer or bytes, of which the low 64 bits count, big-endian: the same
// block has been seen announced both ways.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvcache/block_hash.h"

namespace sublet {

using EngineHash = std::uint64_t;  // Opaque.

// Where a block lies. Only blocks on the GPU are hits at full worth; the others must be loaded.
// A medium that we don't know counts as storage, the least.
enum class KvTier { kGpu, kHost, kStorage };

struct KvEvent {
  enum class What { kStored, kRemoved, kCleared };
  What what = What::kStored;
  std::vector<EngineHash> blocks;    // Stored: in the order of the prompt. Cleared: none.
  std::optional<EngineHash> parent;  // Of the first block; none: it begins a prompt.
  std::vector<TokenId> tokens;       // blocks.size() * block_tokens; empty for an offload.
  int block_tokens = 0;
  KvTier tier = KvTier::kGpu;
  int group = 0;  // Of a hybrid model's caches. A block is there while any group and tier has it.
  // The adapter's name; where an old engine tells only its number, "#" and the number.
  std::string lora;
  // cache_salt and images' hashes of the blocks, as one text a block; empty where all have none.
  // A block's keys stand in their order, kKvExtraNext between them, those of a nested tuple between
  // kKvExtraOpen and kKvExtraClose; the adapter's name, which vLLM puts first, is left out. So a
  // block with only a salt has the salt itself.
  std::vector<std::string> extra;

  friend bool operator==(const KvEvent&, const KvEvent&) = default;
};

inline constexpr char kKvExtraNext = '\x1f';
inline constexpr char kKvExtraOpen = '\x1d';
inline constexpr char kKvExtraClose = '\x1e';

struct KvEventBatch {
  double time_s = 0;           // The engine's clock, for people only.
  std::optional<int> dp_rank;  // Of a data-parallel engine.
  std::vector<KvEvent> events;
  int unknown_events = 0;

  friend bool operator==(const KvEventBatch&, const KvEventBatch&) = default;
};

// A step that stores a prompt of a million tokens has some 5 MiB; the usual ones a few KiB.
inline constexpr std::size_t kKvBatchBytesMax = 16u << 20;

Result<KvEventBatch> DecodeKvEventBatch(std::string_view payload);

// As vLLM wrote them first (arrays), and as its newer versions do.
enum class KvEncoding { kArrays, kArrayOfMaps, kMaps };
std::string EncodeKvEventBatch(const KvEventBatch& batch, KvEncoding encoding);

}  // namespace sublet
