#include "kvcache/text_map.h"

#include <algorithm>

#include "kvcache/request_prefix.h"

namespace sublet {
namespace {

constexpr std::uint32_t kDepthMax = (1u << 31) - 1;
// Of a text's last bytes: dense code in a model of few words has some two bytes a token.
constexpr double kBytesATokenMin = 2;
constexpr double kCaution = 15.0 / 16;

}  // namespace

struct TextMap::Node {
  std::uint32_t key_low;
  std::uint32_t key_high;
  std::uint32_t hash_low;
  std::uint32_t hash_high;
  SlabHandle next;
  SlabHandle newer;
  SlabHandle older;
  std::uint32_t depth : 31;
  std::uint32_t bounded : 1;

  std::uint64_t key() const { return std::uint64_t{key_high} << 32 | key_low; }
};

struct TextMap::Links {
  const TextMap& map;
  SlabHandle& Next(SlabHandle at) const { return map.At(at)->next; }
  std::uint64_t HashOf(SlabHandle at) const { return map.At(at)->key(); }
};

TextMap::TextMap(std::size_t bytes_max)
    : budget_(bytes_max), arena_(budget_), table_(budget_, bytes_max / sizeof(Node), 1) {}

TokenPlace TextMap::PlaceAt(SlabHandle handle) const {
  const Node* const node = At(handle);
  return {.hash = std::uint64_t{node->hash_high} << 32 | node->hash_low,
          .depth = node->depth,
          .bounded = node->bounded != 0};
}

std::optional<TokenPlace> TextMap::Find(std::uint64_t key) const {
  const SlabHandle handle = FindNode(key);
  if (handle == 0) return std::nullopt;
  return PlaceAt(handle);
}

void TextMap::FindAll(std::span<const std::uint64_t> keys, std::span<TokenPlace> places) const {
  for (const std::uint64_t key : keys) __builtin_prefetch(table_.Head(key));
  for (const std::uint64_t key : keys) __builtin_prefetch(At(table_.First(key)));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const SlabHandle handle = FindNode(keys[i]);
    places[i] = handle == 0 ? TokenPlace{} : PlaceAt(handle);
  }
}

void TextMap::Put(std::uint64_t key, const TokenPlace& place) {
  SlabHandle handle = FindNode(key);
  if (handle != 0) {
    Unlink(handle);
  } else {
    handle = Make();
    if (handle == 0) return;
    At(handle)->key_low = static_cast<std::uint32_t>(key);
    At(handle)->key_high = static_cast<std::uint32_t>(key >> 32);
    table_.Insert(handle, key, Links{*this});
  }
  Node* const node = At(handle);
  node->hash_low = static_cast<std::uint32_t>(place.hash);
  node->hash_high = static_cast<std::uint32_t>(place.hash >> 32);
  node->depth = std::min(place.depth, kDepthMax);
  node->bounded = place.bounded;
  LinkNewest(handle);
}

void TextMap::Erase(std::uint64_t key) {
  const SlabHandle handle = FindNode(key);
  if (handle != 0) Remove(handle);
}

void TextMap::Touch(std::uint64_t key) {
  const SlabHandle handle = FindNode(key);
  if (handle == 0) return;
  Unlink(handle);
  LinkNewest(handle);
}

SlabHandle TextMap::FindNode(std::uint64_t key) const {
  SlabHandle at = table_.First(key);
  while (at != 0 && At(at)->key() != key) at = At(at)->next;
  return at;
}

SlabHandle TextMap::Make() {
  SlabHandle handle = arena_.Allocate(sizeof(Node));
  if (handle == 0 && oldest_ != 0) {
    Remove(oldest_);
    handle = arena_.Allocate(sizeof(Node));
  }
  return handle;
}

void TextMap::Remove(SlabHandle handle) {
  Unlink(handle);
  table_.Remove(handle, At(handle)->key(), Links{*this});
  arena_.Free(handle, sizeof(Node));
}

void TextMap::LinkNewest(SlabHandle handle) {
  At(handle)->newer = 0;
  At(handle)->older = newest_;
  (newest_ == 0 ? oldest_ : At(newest_)->newer) = handle;
  newest_ = handle;
}

void TextMap::Unlink(SlabHandle handle) {
  const Node* const node = At(handle);
  (node->newer == 0 ? newest_ : At(node->newer)->older) = node->older;
  (node->older == 0 ? oldest_ : At(node->older)->newer) = node->newer;
}

// ---- learning ----------------------------------------------------------------------------------

std::uint64_t TextKey(BlockHash text, std::uint64_t scope) {
  std::uint64_t key = text ^ scope * 0x9e3779b97f4a7c15u;
  key = (key ^ key >> 32) * 0xff51afd7ed558ccdu;
  return key ^ key >> 32;
}

namespace {

// A place in the prompt of which both the bytes and the tokens are known.
struct Anchor {
  double bytes = 0;
  double tokens = 0;
};

// The deepest block of tokens that lies within the first `bytes` of the text.
std::uint32_t DepthAt(const TextSample& sample, const Anchor& anchor, double bytes) {
  const auto text_bytes = static_cast<double>(sample.text_bytes);
  const auto tokens = static_cast<double>(sample.prompt_tokens);
  double at = tokens - (text_bytes - bytes) / kBytesATokenMin;
  if (text_bytes > anchor.bytes) {
    const double part = (bytes - anchor.bytes) / (text_bytes - anchor.bytes);
    at = std::max(at, anchor.tokens + part * (tokens - anchor.tokens) * kCaution);
  }
  const auto depth = static_cast<std::uint32_t>(std::clamp(at, 0.0, tokens) / sample.block_tokens);
  return std::min(depth, static_cast<std::uint32_t>(sample.chain.size()));
}

// Another prompt with this text goes on with other tokens: it was said to be too long.
void PutBack(TextMap& map, std::uint64_t key, const TextSample& sample, const TokenPlace& known,
             const TokenPlace& agreed) {
  const std::uint32_t depth = agreed.depth > 0 ? agreed.depth : known.depth - 1;
  if (depth == 0) {
    map.Erase(key);
  } else {
    map.Put(key, {.hash = sample.chain[depth - 1], .depth = depth, .bounded = true});
  }
}

}  // namespace

void LearnText(TextMap& map, const TextSample& sample) {
  Anchor anchor;
  TokenPlace agreed;
  for (std::size_t i = 0; i < sample.text.size(); ++i) {
    const std::uint64_t key = TextKey(sample.text[i], sample.scope);
    const auto bytes = static_cast<double>((i + 1) * kTextBlockBytes);
    const std::uint32_t depth = DepthAt(sample, anchor, bytes);
    const auto known = map.Find(key);
    if (!known) {
      if (depth > 0) map.Put(key, {.hash = sample.chain[depth - 1], .depth = depth});
      continue;
    }
    if (known->depth > sample.chain.size() || sample.chain[known->depth - 1] != known->hash) {
      PutBack(map, key, sample, *known, agreed);
      continue;
    }
    agreed = *known;
    if (depth > known->depth && !known->bounded) {
      agreed = {.hash = sample.chain[depth - 1], .depth = depth};
    }
    map.Put(key, agreed);
    anchor = {.bytes = bytes, .tokens = static_cast<double>(agreed.depth) * sample.block_tokens};
  }
}

}  // namespace sublet
