#include "route/distinction.h"

#include <xxhash.h>

#include <algorithm>
#include <span>

namespace sublet {
namespace {

constexpr std::size_t kNeighbours = 4;  // One cache line.
// With fewer sightings than this, chance decides who is common.
constexpr std::uint32_t kCommonMin = 4;
// Tells the counts of strides from those of blocks that end at the same place.
constexpr BlockHash kStrideMark = 0x9e3779b97f4a7c15;

// So many strides beyond the last common one are counted, which are six times its length: a common
// beginning of any length is known after some fifteen requests.
constexpr std::size_t kStridesAhead = 8;

std::size_t StrideFrom(std::size_t at, std::size_t unit) {
  return at + std::max(unit, at / 4 / unit * unit);
}

}  // namespace

Distinction::Distinction() : counts_(kBlocksKept) {}

void Distinction::Begin(std::size_t replicas) {
  if (++since_fading_ >= kWindow) Fade();
  ++requests_;
  const auto half_due =
      static_cast<std::uint32_t>(requests_ / (2 * std::max<std::size_t>(1, replicas)));
  common_ = std::max(kCommonMin, half_due);
}

bool Distinction::IsCommon(BlockHash block) {
  Count* const bucket = &counts_[block & (kBlocksKept - kNeighbours)];
  Count* least = bucket;
  for (Count* count = bucket; count != bucket + kNeighbours; ++count) {
    if (count->block == block) return ++count->requests > common_;
    if (count->requests < least->requests) least = count;
  }
  *least = {.block = block, .requests = 1};  // Takes the place of who is seen least.
  return false;
}

Beginning Distinction::BeginningOf(const RequestPrefix& prefix, std::size_t replicas,
                                   std::size_t skip) {
  Begin(replicas);
  if (!prefix.text.empty()) return OfText(prefix, skip);
  return prefix.token_ids.empty() ? Beginning{} : OfTokens(prefix, skip);
}

Beginning Distinction::OfText(const RequestPrefix& prefix, std::size_t skip) {
  const std::size_t last = std::min(prefix.text.size() - 1, kDepthMax);
  std::size_t at = std::min(skip / kTextBlockBytes, last);
  std::size_t ahead = 0;
  for (std::size_t next = StrideFrom(at, 1); next <= last && ahead < kStridesAhead;
       next = StrideFrom(next, 1)) {
    // A block's hash stands for all before it.
    const bool common = IsCommon(prefix.text[next - 1] ^ kStrideMark);
    if (common && ahead == 0) {
      at = next;
    } else {
      ++ahead;
    }
  }
  while (at < last && IsCommon(prefix.text[at])) ++at;
  return {.key = prefix.text[at], .common = at * kTextBlockBytes};
}

Beginning Distinction::OfTokens(const RequestPrefix& prefix, std::size_t skip) {
  const std::span<const TokenId> tokens = prefix.token_ids;
  std::size_t common = std::min(skip, tokens.size() - 1) / kTokensABlock * kTokensABlock;
  BlockHash chain = common;
  const auto extended = [&](BlockHash from, std::size_t begin, std::size_t end) {
    const std::span block = tokens.subspan(begin, end - begin);
    return XXH3_64bits_withSeed(block.data(), block.size_bytes(), from);
  };
  std::size_t ahead = 0;
  std::size_t at = common;
  BlockHash running = chain;
  for (std::size_t next = StrideFrom(at, kTokensABlock);
       next < tokens.size() && ahead < kStridesAhead; next = StrideFrom(at, kTokensABlock)) {
    running = extended(running, at, next);
    at = next;
    if (IsCommon(running ^ kStrideMark) && ahead == 0) {
      common = at;
      chain = running;
    } else {
      ++ahead;
    }
  }
  std::size_t end = common;
  for (std::size_t depth = 0; depth < kDepthMax && end < tokens.size(); ++depth) {
    end = std::min(tokens.size(), common + kTokensABlock);
    chain = extended(chain, common, end);
    if (!IsCommon(chain)) break;
    common = end;
  }
  // In one pass, so that the key of a beginning doesn't depend on how much of it was passed over.
  const BlockHash key = XXH3_64bits(tokens.data(), end * sizeof(TokenId));
  return {.key = std::max<BlockHash>(1, key), .common = common};
}

void Distinction::Fade() {
  since_fading_ = 0;
  requests_ /= 2;
  for (Count& count : counts_) {
    count.requests /= 2;
    if (count.requests == 0) count.block = 0;
  }
}

}  // namespace sublet
