#include "kvcache/kv_event.h"

#include <fmt/format.h>
#include <msgpuck.h>

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "kvcache/msgpack_check.h"

namespace sublet {
namespace {

constexpr int kExtraDepthMax = 8;  // vLLM's tuples nest twice.
constexpr std::int64_t kBlockTokensMax = 1 << 20;
constexpr std::int64_t kGroupMax = 1 << 16;

// All of these read from bytes that IsMsgpack() has passed, so each value is whole.

enum class EventField {
  kHashes,
  kParent,
  kTokens,
  kBlockSize,
  kLoraId,
  kMedium,
  kLoraName,
  kExtraKeys,
  kGroup,
  kUnknown,
};

struct EventFieldName {
  std::string_view name;
  EventField field;
};
constexpr EventFieldName kFieldNames[] = {
    {"block_hashes", EventField::kHashes}, {"parent_block_hash", EventField::kParent},
    {"token_ids", EventField::kTokens},    {"block_size", EventField::kBlockSize},
    {"lora_id", EventField::kLoraId},      {"medium", EventField::kMedium},
    {"lora_name", EventField::kLoraName},  {"extra_keys", EventField::kExtraKeys},
    {"group_idx", EventField::kGroup},
};

// The order of the fields where an event is an array; what follows is newer than this.
constexpr EventField kStoredOrder[] = {
    EventField::kHashes,    EventField::kParent,    EventField::kTokens,
    EventField::kBlockSize, EventField::kLoraId,    EventField::kMedium,
    EventField::kLoraName,  EventField::kExtraKeys, EventField::kGroup,
};
constexpr EventField kRemovedOrder[] = {EventField::kHashes, EventField::kMedium,
                                        EventField::kGroup};

EventField FieldNamed(std::string_view name) {
  for (const EventFieldName& known : kFieldNames) {
    if (known.name == name) return known.field;
  }
  return EventField::kUnknown;
}

bool IsText(const char* at) {
  const mp_type type = mp_typeof(*at);
  return type == MP_STR || type == MP_BIN;
}

// Text or bytes; packers of an age write either as the other.
std::string_view TakeText(const char*& at) {
  std::uint32_t length = 0;
  const char* const text = mp_decode_strbin(&at, &length);
  return {text, length};
}

std::optional<std::int64_t> TakeInteger(const char*& at) {
  switch (mp_typeof(*at)) {
    case MP_UINT: {
      const std::uint64_t value = mp_decode_uint(&at);
      constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
      return static_cast<std::int64_t>(std::min(value, kMax));
    }
    case MP_INT:
      return mp_decode_int(&at);
    default:
      mp_next(&at);
      return std::nullopt;
  }
}

double TakeSeconds(const char*& at) {
  switch (mp_typeof(*at)) {
    case MP_DOUBLE:
      return mp_decode_double(&at);
    case MP_FLOAT:
      return mp_decode_float(&at);
    default:
      return static_cast<double>(TakeInteger(at).value_or(0));
  }
}

bool TakeHash(const char*& at, EngineHash& hash) {
  switch (mp_typeof(*at)) {
    case MP_UINT:
      hash = mp_decode_uint(&at);
      return true;
    case MP_INT:
      hash = static_cast<EngineHash>(mp_decode_int(&at));
      return true;
    case MP_STR:
    case MP_BIN: {
      std::string_view bytes = TakeText(at);
      if (bytes.empty()) return false;
      if (bytes.size() > sizeof(EngineHash)) bytes.remove_prefix(bytes.size() - sizeof(EngineHash));
      hash = 0;
      for (const char byte : bytes) hash = hash << 8 | static_cast<unsigned char>(byte);
      return true;
    }
    default:
      return false;
  }
}

KvTier TierOf(std::string_view medium) {
  // vLLM: GPU, CPU; SGLang: GPU, CPU_PINNED; with a number in others.
  if (medium.starts_with("GPU") || medium.starts_with("gpu")) return KvTier::kGpu;
  if (medium.starts_with("CPU") || medium.starts_with("cpu")) return KvTier::kHost;
  return KvTier::kStorage;
}

// One event under way: what can be told only when all of it has been read.
class EventReader {
 public:
  // Null, or why the batch can't be read.
  const char* Array(const char*& at, KvEventBatch& batch);
  const char* Map(const char*& at, KvEventBatch& batch);

 private:
  bool Begin(std::string_view tag);
  const char* Field(EventField field, const char*& at);
  const char* Hashes(const char*& at);
  void Tokens(const char*& at);
  void ExtraKeys();
  bool ExtraKey(const char*& at, int depth, std::string& text) const;
  const char* End(KvEventBatch& batch);

  KvEvent event_;
  std::span<const EventField> order_;
  std::optional<std::int64_t> lora_id_;
  const char* extra_keys_ = nullptr;
  bool hashes_ = false;
  bool doubtful_ = false;
};

bool EventReader::Begin(std::string_view tag) {
  if (tag == "BlockStored") {
    event_.what = KvEvent::What::kStored;
    order_ = kStoredOrder;
  } else if (tag == "BlockRemoved") {
    event_.what = KvEvent::What::kRemoved;
    order_ = kRemovedOrder;
  } else if (tag == "AllBlocksCleared") {
    event_.what = KvEvent::What::kCleared;
  } else {
    return false;
  }
  return true;
}

const char* EventReader::Hashes(const char*& at) {
  if (mp_typeof(*at) != MP_ARRAY) return "block_hashes is no list";
  const std::uint32_t count = mp_decode_array(&at);
  event_.blocks.resize(count);
  for (EngineHash& hash : event_.blocks) {
    if (!TakeHash(at, hash)) return "a hash is neither an integer nor bytes";
  }
  hashes_ = true;
  return nullptr;
}

void EventReader::Tokens(const char*& at) {
  if (mp_typeof(*at) != MP_ARRAY) {
    doubtful_ = doubtful_ || mp_typeof(*at) != MP_NIL;
    return mp_next(&at);
  }
  const std::uint32_t count = mp_decode_array(&at);
  event_.tokens.resize(count);
  for (TokenId& token : event_.tokens) {
    if (mp_typeof(*at) != MP_UINT) {
      doubtful_ = true;
      mp_next(&at);
      continue;
    }
    const std::uint64_t value = mp_decode_uint(&at);
    doubtful_ = doubtful_ || value > std::numeric_limits<TokenId>::max();
    token = static_cast<TokenId>(value);
  }
}

const char* EventReader::Field(EventField field, const char*& at) {
  if (field == EventField::kHashes) return Hashes(at);
  if (mp_typeof(*at) == MP_NIL) {
    mp_decode_nil(&at);
    return nullptr;
  }
  switch (field) {
    case EventField::kParent: {
      EngineHash hash = 0;
      if (!TakeHash(at, hash)) return "the parent's hash is neither an integer nor bytes";
      event_.parent = hash;
      return nullptr;
    }
    case EventField::kTokens:
      Tokens(at);
      return nullptr;
    case EventField::kBlockSize: {
      const std::int64_t tokens = TakeInteger(at).value_or(-1);
      if (tokens < 0 || tokens > kBlockTokensMax) return "block_size is no number of tokens";
      event_.block_tokens = static_cast<int>(tokens);
      return nullptr;
    }
    case EventField::kLoraId:
      lora_id_ = TakeInteger(at);
      return nullptr;
    case EventField::kMedium:
      if (!IsText(at)) return "medium is no text";
      event_.tier = TierOf(TakeText(at));
      return nullptr;
    case EventField::kLoraName:
      if (!IsText(at)) return "lora_name is no text";
      event_.lora = TakeText(at);
      return nullptr;
    case EventField::kExtraKeys:
      extra_keys_ = at;
      mp_next(&at);
      return nullptr;
    case EventField::kGroup: {
      const std::int64_t group = TakeInteger(at).value_or(-1);
      if (group < 0 || group > kGroupMax) return "group_idx is no number of a group";
      event_.group = static_cast<int>(group);
      return nullptr;
    }
    default:
      mp_next(&at);
      return nullptr;
  }
}

// False where it nests too deeply.
bool EventReader::ExtraKey(const char*& at, int depth, std::string& text) const {
  switch (mp_typeof(*at)) {
    case MP_STR:
    case MP_BIN:
      text += TakeText(at);
      return true;
    case MP_UINT:
      text += std::to_string(mp_decode_uint(&at));
      return true;
    case MP_INT:
      text += std::to_string(mp_decode_int(&at));
      return true;
    case MP_ARRAY:
      break;
    default:
      // Nothing that tells prompts apart has been seen as nil, a map or a float.
      mp_next(&at);
      return true;
  }
  if (depth > kExtraDepthMax) return false;
  if (depth > 1) text += kKvExtraOpen;
  const std::uint32_t count = mp_decode_array(&at);
  bool first = true;
  for (std::uint32_t i = 0; i < count; ++i) {
    // The adapter is told by name already, and old engines don't repeat it here.
    if (depth == 1 && i == 0 && !event_.lora.empty() && IsText(at)) {
      const char* after = at;
      if (TakeText(after) == event_.lora) {
        at = after;
        continue;
      }
    }
    if (!std::exchange(first, false)) text += kKvExtraNext;
    if (!ExtraKey(at, depth + 1, text)) return false;
  }
  if (depth > 1) text += kKvExtraClose;
  return true;
}

void EventReader::ExtraKeys() {
  const char* at = extra_keys_;
  if (mp_typeof(*at) != MP_ARRAY || mp_decode_array(&at) != event_.blocks.size()) {
    doubtful_ = true;
    return;
  }
  event_.extra.resize(event_.blocks.size());
  bool any = false;
  for (std::string& text : event_.extra) {
    if (!ExtraKey(at, 1, text)) {
      doubtful_ = true;
      return;
    }
    any = any || !text.empty();
  }
  if (!any) event_.extra.clear();
}

const char* EventReader::End(KvEventBatch& batch) {
  if (event_.what != KvEvent::What::kCleared && !hashes_) return "no block_hashes";
  if (event_.what == KvEvent::What::kStored) {
    if (extra_keys_ != nullptr) ExtraKeys();
    const std::size_t expected =
        event_.blocks.size() * static_cast<std::size_t>(event_.block_tokens);
    if (!event_.tokens.empty() && event_.tokens.size() != expected) doubtful_ = true;
  }
  if (event_.lora.empty() && lora_id_) event_.lora = fmt::format("#{}", *lora_id_);
  if (doubtful_) {
    event_.tokens.clear();
    event_.extra.clear();
    ++batch.unknown_events;
  }
  batch.events.push_back(std::move(event_));
  return nullptr;
}

const char* EventReader::Array(const char*& at, KvEventBatch& batch) {
  const std::uint32_t count = mp_decode_array(&at);
  if (count == 0 || !IsText(at)) return "it begins with no tag";
  const bool known = Begin(TakeText(at));
  for (std::uint32_t i = 1; i < count; ++i) {
    const EventField field = known && i - 1 < order_.size() ? order_[i - 1] : EventField::kUnknown;
    if (const char* const why = Field(field, at)) return why;
  }
  if (known) return End(batch);
  ++batch.unknown_events;
  return nullptr;
}

const char* EventReader::Map(const char*& at, KvEventBatch& batch) {
  const std::uint32_t count = mp_decode_map(&at);
  // The tag comes first from msgspec, but a map has no order.
  std::optional<std::string_view> tag;
  const char* look = at;
  for (std::uint32_t i = 0; i < count && !tag; ++i) {
    const bool is_tag =
        IsText(look) && [key = look]() mutable { return TakeText(key); }() == "type";
    mp_next(&look);
    if (is_tag && IsText(look))
      tag = TakeText(look);
    else
      mp_next(&look);
  }
  if (!tag) return "it has no type";
  const bool known = Begin(*tag);
  const bool fields = known && event_.what != KvEvent::What::kCleared;
  for (std::uint32_t i = 0; i < count; ++i) {
    EventField field = EventField::kUnknown;
    if (IsText(at)) {
      field = FieldNamed(TakeText(at));
    } else {
      mp_next(&at);
    }
    if (const char* const why = Field(fields ? field : EventField::kUnknown, at)) return why;
  }
  if (known) return End(batch);
  ++batch.unknown_events;
  return nullptr;
}

Status TakeEvents(const char*& at, KvEventBatch& batch) {
  if (mp_typeof(*at) != MP_ARRAY) return Fail(ErrorCode::kInvalid, "KV events: no list of events");
  const std::uint32_t count = mp_decode_array(&at);
  batch.events.clear();
  batch.unknown_events = 0;
  // A claim of a million events needs a million bytes, but an event has a hundred in memory.
  batch.events.reserve(std::min<std::uint32_t>(count, 1024));
  for (std::uint32_t i = 0; i < count; ++i) {
    EventReader reader;
    const char* why = "it is neither a list nor a map";
    if (mp_typeof(*at) == MP_ARRAY) {
      why = reader.Array(at, batch);
    } else if (mp_typeof(*at) == MP_MAP) {
      why = reader.Map(at, batch);
    }
    if (why != nullptr) {
      return Fail(ErrorCode::kInvalid, fmt::format("KV events: event {}: {}", i, why));
    }
  }
  return {};
}

void TakeRank(const char*& at, KvEventBatch& batch) {
  const std::optional<std::int64_t> rank = TakeInteger(at);
  if (rank && *rank >= 0 && *rank <= std::numeric_limits<int>::max()) {
    batch.dp_rank = static_cast<int>(*rank);
  }
}

Status TakeBatchArray(const char* at, KvEventBatch& batch) {
  const std::uint32_t count = mp_decode_array(&at);
  if (count < 2) return Fail(ErrorCode::kInvalid, "KV events: a batch without events");
  batch.time_s = TakeSeconds(at);
  RETURN_IF_ERROR(TakeEvents(at, batch));
  if (count > 2) TakeRank(at, batch);
  return {};
}

Status TakeBatchMap(const char* at, KvEventBatch& batch) {
  const std::uint32_t count = mp_decode_map(&at);
  bool events = false;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::string_view key;
    if (IsText(at)) {
      key = TakeText(at);
    } else {
      mp_next(&at);
    }
    if (key == "ts") {
      batch.time_s = TakeSeconds(at);
    } else if (key == "events") {
      RETURN_IF_ERROR(TakeEvents(at, batch));
      events = true;
    } else if (key == "data_parallel_rank" || key == "attn_dp_rank") {
      TakeRank(at, batch);
    } else {
      mp_next(&at);
    }
  }
  if (!events) return Fail(ErrorCode::kInvalid, "KV events: a batch without events");
  return {};
}

}  // namespace

Result<KvEventBatch> DecodeKvEventBatch(std::string_view payload) {
  if (payload.size() > kKvBatchBytesMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("KV events: a batch of too many bytes: {}", payload.size()));
  }
  if (!IsMsgpack(payload)) return Fail(ErrorCode::kInvalid, "KV events: no MessagePack");
  KvEventBatch batch;
  switch (mp_typeof(payload.front())) {
    case MP_ARRAY:
      RETURN_IF_ERROR(TakeBatchArray(payload.data(), batch));
      break;
    case MP_MAP:
      RETURN_IF_ERROR(TakeBatchMap(payload.data(), batch));
      break;
    default:
      return Fail(ErrorCode::kInvalid, "KV events: neither a list nor a map");
  }
  return batch;
}

}  // namespace sublet
