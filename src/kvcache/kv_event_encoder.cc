#include <msgpuck.h>

#include <charconv>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kvcache/kv_event.h"

namespace sublet {
namespace {

std::string_view MediumOf(KvTier tier) {
  switch (tier) {
    case KvTier::kHost:
      return "CPU";
    case KvTier::kStorage:
      return "STORAGE";
    default:
      return "GPU";
  }
}

class Packer {
 public:
  explicit Packer(std::string& out) : out_(out) {}

  void Array(std::size_t size) {
    char bytes[8];
    Append(bytes, mp_encode_array(bytes, static_cast<std::uint32_t>(size)));
  }
  void Map(std::size_t size) {
    char bytes[8];
    Append(bytes, mp_encode_map(bytes, static_cast<std::uint32_t>(size)));
  }
  void Uint(std::uint64_t value) {
    char bytes[16];
    Append(bytes, mp_encode_uint(bytes, value));
  }
  void Double(double value) {
    char bytes[16];
    Append(bytes, mp_encode_double(bytes, value));
  }
  void Nil() {
    char bytes[2];
    Append(bytes, mp_encode_nil(bytes));
  }
  void Text(std::string_view text) {
    char bytes[8];
    Append(bytes, mp_encode_strl(bytes, static_cast<std::uint32_t>(text.size())));
    out_ += text;
  }
  void Uints(std::span<const TokenId> values) {
    Array(values.size());
    // One growth for all: five bytes are the most that 32 bits take.
    const std::size_t begin = out_.size();
    out_.resize(begin + values.size() * 5);
    char* at = out_.data() + begin;
    for (const TokenId value : values) at = mp_encode_uint(at, value);
    out_.resize(static_cast<std::size_t>(at - out_.data()));
  }
  void Hashes(std::span<const EngineHash> hashes) {
    Array(hashes.size());
    for (const EngineHash hash : hashes) Uint(hash);
  }

 private:
  void Append(const char* begin, const char* end) { out_.append(begin, end); }

  std::string& out_;
};

// The number of an adapter that has no name; see KvEvent::lora.
std::optional<std::uint64_t> LoraNumber(std::string_view lora) {
  std::uint64_t number = 0;
  if (!lora.starts_with('#')) return std::nullopt;
  const char* const end = lora.data() + lora.size();
  const auto [at, error] = std::from_chars(lora.data() + 1, end, number);
  if (error != std::errc() || at != end || lora.size() < 2) return std::nullopt;
  return number;
}

// Writes one event's fields, with their names where events are maps.
class EventWriter {
 public:
  EventWriter(Packer& packer, const KvEvent& event, bool maps)
      : packer_(packer), event_(event), maps_(maps), lora_number_(LoraNumber(event.lora)) {}

  void Write() {
    switch (event_.what) {
      case KvEvent::What::kStored:
        return Stored();
      case KvEvent::What::kRemoved:
        return Removed();
      case KvEvent::What::kCleared:
        return Begin("AllBlocksCleared", 0);
    }
  }

 private:
  void Begin(std::string_view tag, std::size_t fields) {
    if (!maps_) {
      packer_.Array(fields + 1);
    } else {
      packer_.Map(fields + 1);
      packer_.Text("type");
    }
    packer_.Text(tag);
  }
  void Name(std::string_view name) {
    if (maps_) packer_.Text(name);
  }
  void Medium() {
    Name("medium");
    packer_.Text(MediumOf(event_.tier));
  }
  bool HasName() const { return !event_.lora.empty() && !lora_number_; }

  void ExtraOfBlock(std::string_view text) {
    const bool name = HasName();
    std::size_t keys = name ? 1 : 0;
    if (!text.empty()) {
      ++keys;
      for (const char c : text) keys += c == kKvExtraNext ? 1 : 0;
    }
    if (keys == 0) return packer_.Nil();
    packer_.Array(keys);
    if (name) packer_.Text(event_.lora);
    while (!text.empty()) {
      const std::size_t length = text.find(kKvExtraNext);
      packer_.Text(text.substr(0, length));
      if (length == text.npos) return;
      text.remove_prefix(length + 1);
      if (text.empty()) packer_.Text("");
    }
  }

  void ExtraKeys() {
    Name("extra_keys");
    if (event_.extra.empty() && !HasName()) return packer_.Nil();
    packer_.Array(event_.blocks.size());
    for (std::size_t i = 0; i < event_.blocks.size(); ++i) {
      ExtraOfBlock(i < event_.extra.size() ? std::string_view(event_.extra[i]) : "");
    }
  }

  void Stored() {
    const bool group = event_.group != 0;
    const bool extra = !event_.extra.empty() || HasName();
    // In an array a field can be left out only where all behind it are.
    const bool write_extra = extra || (group && !maps_);
    Begin("BlockStored", 7u + (write_extra ? 1 : 0) + (group ? 1 : 0));
    Name("block_hashes");
    packer_.Hashes(event_.blocks);
    Name("parent_block_hash");
    if (event_.parent) {
      packer_.Uint(*event_.parent);
    } else {
      packer_.Nil();
    }
    Name("token_ids");
    packer_.Uints(event_.tokens);
    Name("block_size");
    packer_.Uint(static_cast<std::uint64_t>(event_.block_tokens));
    Name("lora_id");
    if (lora_number_) {
      packer_.Uint(*lora_number_);
    } else {
      packer_.Nil();
    }
    Medium();
    Name("lora_name");
    if (HasName()) {
      packer_.Text(event_.lora);
    } else {
      packer_.Nil();
    }
    if (write_extra) ExtraKeys();
    if (group) Group();
  }

  void Removed() {
    Begin("BlockRemoved", 2u + (event_.group != 0 ? 1 : 0));
    Name("block_hashes");
    packer_.Hashes(event_.blocks);
    Medium();
    if (event_.group != 0) Group();
  }

  void Group() {
    Name("group_idx");
    packer_.Uint(static_cast<std::uint64_t>(event_.group));
  }

  Packer& packer_;
  const KvEvent& event_;
  const bool maps_;
  const std::optional<std::uint64_t> lora_number_;
};

}  // namespace

std::string EncodeKvEventBatch(const KvEventBatch& batch, KvEncoding encoding) {
  std::string out;
  Packer packer(out);
  const bool map = encoding == KvEncoding::kMaps;
  const std::size_t fields = batch.dp_rank ? 3 : 2;
  if (map) {
    packer.Map(fields);
    packer.Text("ts");
  } else {
    packer.Array(fields);
  }
  packer.Double(batch.time_s);
  if (map) packer.Text("events");
  packer.Array(batch.events.size());
  for (const KvEvent& event : batch.events) {
    EventWriter(packer, event, encoding != KvEncoding::kArrays).Write();
  }
  if (!batch.dp_rank) return out;
  if (map) packer.Text("data_parallel_rank");
  packer.Uint(static_cast<std::uint64_t>(*batch.dp_rank));
  return out;
}

}  // namespace sublet
