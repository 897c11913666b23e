// kvcache/cache_groups.h
//
// Replicas whose caches speak of the same blocks: of one model, cut into blocks of one size. And
// which of them a request for a model may find itself in.
//
//   const GroupId group = groups.Join("llama", 16, lane);
//   for (const ServedBy& by : groups.For("llama", "salt")) ...   // The seed of its chain there.
//   groups.Leave(group, lane);
//
// A request names a model as its client knows it. That is the group's model, or an adapter that the
// group's engines have announced blocks of, or else, where no group has a model of that name,
// another name of the model. Before an adapter has announced its first block, its requests of token
// ids are taken for the base model's.
//
// Thread safety: their owner's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/block_hash.h"
#include "kvcache/holder_sets.h"

namespace sublet {

using GroupId = std::uint32_t;

struct ServedBy {
  GroupId group = 0;
  int block_tokens = 0;
  BlockHash seed = 0;  // Of the chain of its token ids.
  friend bool operator==(const ServedBy&, const ServedBy&) = default;
};

// How many bytes of text a token stands for, from prompts of which both are known.
class TokenRatio {
 public:
  void Learn(std::size_t bytes, std::uint32_t tokens);
  double bytes_a_token() const { return bytes_ / tokens_; }
  double tokens() const { return tokens_; }

 private:
  // Four bytes a token, as said by so much text.
  double bytes_ = 16384;
  double tokens_ = 4096;
};

class CacheGroups {
 public:
  GroupId Join(const std::string& model, int block_tokens, LaneId lane);
  void Leave(GroupId group, LaneId lane);
  void SeeAdapter(GroupId group, const std::string& adapter);

  // Overwrites `served`.
  void For(std::string_view model, std::string_view salt, std::vector<ServedBy>& served) const;

  std::span<const std::uint64_t> LanesOf(GroupId group) const { return groups_[group].lanes; }
  std::int64_t MembersOf(GroupId group) const { return groups_[group].members; }
  // Of chains without adapter and salt. Unlike a GroupId it is never another group's later on.
  BlockHash PlainSeedOf(GroupId group) const { return groups_[group].plain_seed; }
  BlockHash SeedOf(GroupId group, std::string_view adapter, std::string_view salt) const;
  TokenRatio& RatioOf(GroupId group) { return groups_[group].ratio; }
  const TokenRatio& RatioOf(GroupId group) const { return groups_[group].ratio; }

 private:
  // More names than a server has adapters; beyond it, unknown names are other names of the model.
  static constexpr std::size_t kAdaptersMax = 1024;

  struct Group {
    std::string model;
    int block_tokens = 0;
    BlockHash plain_seed = 0;
    std::vector<std::string> adapters;  // Sorted.
    std::vector<std::uint64_t> lanes;   // One bit each.
    std::int64_t members = 0;           // 0: the group is free.
    TokenRatio ratio;
  };

  std::vector<Group> groups_;
};

}  // namespace sublet
