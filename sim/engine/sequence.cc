#include "engine/sequence.h"

#include <xxhash.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "engine/generated_text.h"

namespace sublet {
namespace {

std::uint64_t HashText(std::string_view text, std::uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

std::uint64_t HashTokens(std::span<const TokenId> tokens, std::uint64_t seed) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), seed);
}

// The first `count` tokens of a block that is known by the number of its content.
void AppendContent(std::uint64_t content, int count, std::vector<TokenId>& out) {
  const std::uint64_t mixed = MixBits(content);
  const std::size_t begin = out.size();
  out.resize(begin + static_cast<std::size_t>(count));
  TokenId next = static_cast<TokenId>(mixed);
  for (std::size_t i = begin; i < out.size(); ++i) out[i] = next++;
  // Both halves count, so that no two contents of a trace are taken for one.
  if (count > 1) out[begin + 1] = static_cast<TokenId>(mixed >> 32);
}

}  // namespace

std::vector<TokenId> ContentTokens(std::span<const std::uint64_t> contents, int prompt_tokens,
                                   int block_tokens) {
  std::vector<TokenId> tokens;
  tokens.reserve(static_cast<std::size_t>(prompt_tokens));
  for (const std::uint64_t content : contents) {
    const int left = prompt_tokens - static_cast<int>(tokens.size());
    AppendContent(content, std::min(left, block_tokens), tokens);
  }
  return tokens;
}

Sequence::Sequence(EngineRequestId id, EngineRequest request, const EngineOptions& options,
                   std::int64_t arrival_ns)
    : id_(id),
      request_(std::move(request)),
      block_tokens_(options.block_tokens),
      arrival_ns_(arrival_ns),
      by_content_(request_.prompt.empty()),
      prompt_tokens_(by_content_ ? request_.prompt_tokens
                                 : static_cast<int>(request_.prompt.size())) {
  root_ = HashText(request_.salt, HashText(request_.lora, 0));
  const std::uint64_t prompt =
      by_content_ ? XXH3_64bits_withSeed(request_.contents.data(),
                                         request_.contents.size() * sizeof(request_.contents[0]),
                                         static_cast<std::uint64_t>(prompt_tokens_))
                  : HashTokens(request_.prompt, 0);
  stream_ = MixBits(prompt ^ MixBits(options.seed + static_cast<std::uint64_t>(request_.variant)));
}

TokenId Sequence::Generate() {
  CHECK(!finished());
  const TokenId token = GeneratedToken(stream_, generated_++);
  if (!by_content_) request_.prompt.push_back(token);
  return token;
}

void Sequence::NameBlocks(int count) {
  while (static_cast<int>(hashes_.size()) < count) {
    const EngineHash parent = hashes_.empty() ? root_ : hashes_.back();
    hashes_.push_back(HashOf(static_cast<int>(hashes_.size()), parent));
  }
}

EngineHash Sequence::HashOf(int block, EngineHash parent) const {
  const auto size = static_cast<std::size_t>(block_tokens_);
  const auto at = static_cast<std::size_t>(block);
  if (!by_content_) return HashTokens(std::span(request_.prompt).subspan(at * size, size), parent);
  // What isn't all of the prompt is as good as named by the output's stream.
  const bool of_prompt = (block + 1) * block_tokens_ <= prompt_tokens_;
  const std::uint64_t content = of_prompt                       ? request_.contents[at]
                                : at < request_.contents.size() ? request_.contents[at] ^ stream_
                                                                : stream_ + at;
  return MixBits(parent ^ MixBits(content));
}

void Sequence::AppendTokens(int first, int last, std::vector<TokenId>& out) const {
  if (!by_content_) {
    const auto begin = request_.prompt.begin() + static_cast<std::ptrdiff_t>(first) * block_tokens_;
    const auto count = static_cast<std::ptrdiff_t>(last - first) * block_tokens_;
    out.insert(out.end(), begin, begin + count);
    return;
  }
  for (int block = first; block < last; ++block) AppendBlock(block, out);
}

void Sequence::AppendBlock(int block, std::vector<TokenId>& out) const {
  const int begin = block * block_tokens_;
  const int of_prompt = std::clamp(prompt_tokens_ - begin, 0, block_tokens_);
  if (of_prompt > 0) {
    AppendContent(request_.contents[static_cast<std::size_t>(block)], of_prompt, out);
  }
  for (int i = of_prompt; i < block_tokens_; ++i) {
    out.push_back(GeneratedToken(stream_, begin + i - prompt_tokens_));
  }
}

}  // namespace sublet
