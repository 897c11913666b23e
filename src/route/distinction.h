// route/distinction.h
//
// Where a prompt begins to differ from most others.
//
//   Distinction distinction;
//   const Beginning beginning = distinction.BeginningOf(prefix, 8, skip);
//   beginning.key      // Names the first block that few others have,
//   beginning.common   // which stands behind so much that many have.
//
// Requests that begin alike should meet, and for that something must stand for the beginning. The
// first block can't: a system prompt that everybody sends would bring everybody to one replica. The
// whole prompt can't either: no two are equal. So each chain of blocks is followed until it comes
// to one that is in a smaller part of the recent requests than half of what a replica is due; that
// block is the key. Ten groups that share a prefix each get a key of their own; one prefix that all
// share is passed over, and what follows it decides.
//
// Only blocks as far as that are counted, and a few beyond, so that what is kept is small: the
// popular beginnings and some ten blocks for each prompt of late, at most kBlocksKept. Counts are
// halved every kWindow requests. The chain is followed in strides first, each a quarter of what is
// behind it, and some strides ahead are counted too; then block by block. One block ahead would not
// do: it begins to be counted when the one before it is common, and a beginning of hundreds of
// blocks would take thousands of requests to be known for one.
//
// Thread safety: one thread at a time. The same calls give the same keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcache/request_prefix.h"

namespace sublet {

struct Beginning {
  std::uint64_t key = 0;   // 0 where the prompt has no block.
  std::size_t common = 0;  // Bytes of a text, or tokens.
};

class Distinction {
 public:
  Distinction();

  // `skip` bytes of text, or tokens, are known to be held by everybody, and are passed over unseen.
  Beginning BeginningOf(const RequestPrefix& prefix, std::size_t replicas, std::size_t skip = 0);
  std::uint64_t KeyOf(const RequestPrefix& prefix, std::size_t replicas, std::size_t skip = 0) {
    return BeginningOf(prefix, replicas, skip).key;
  }

  static constexpr std::uint32_t kWindow = 2048;    // A part of 1/256 is then eight requests.
  static constexpr std::size_t kBlocksKept = 8192;  // 128 KiB. A power of two.
  // Of prompts that are given as tokens, so many make a block here.
  static constexpr std::size_t kTokensABlock = 64;
  // A common beginning of more blocks than this (4 MiB of text) isn't passed over any further.
  static constexpr std::size_t kDepthMax = 16384;

 private:
  struct Count {
    BlockHash block = 0;  // 0: vacant.
    std::uint32_t requests = 0;
  };

  void Begin(std::size_t replicas);
  // Counts it, and says whether the chain must be followed further.
  bool IsCommon(BlockHash block);
  Beginning OfText(const RequestPrefix& prefix, std::size_t skip);
  Beginning OfTokens(const RequestPrefix& prefix, std::size_t skip);
  void Fade();

  std::vector<Count> counts_;
  std::uint32_t requests_ = 0;  // In the window, faded as the counts are.
  std::uint32_t since_fading_ = 0;
  std::uint32_t common_ = 0;  // More requests than this have it.
};

}  // namespace sublet
