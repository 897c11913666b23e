#include "kvcache/cache_groups.h"

#include <algorithm>

#include "base/check.h"

namespace sublet {

void TokenRatio::Learn(std::size_t bytes, std::uint32_t tokens) {
  // Outside of these the two numbers aren't of one text.
  constexpr double kBytesMin = 0.5;
  constexpr double kBytesMax = 16;
  const auto ratio = static_cast<double>(bytes) / std::max(1u, tokens);
  if (ratio < kBytesMin || ratio > kBytesMax) return;
  bytes_ += static_cast<double>(bytes);
  tokens_ += tokens;
  constexpr double kTokensMax = 1 << 22;  // Older texts count less and less.
  if (tokens_ > kTokensMax) {
    bytes_ /= 2;
    tokens_ /= 2;
  }
}

GroupId CacheGroups::Join(const std::string& model, int block_tokens, LaneId lane) {
  auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& other) {
    return other.members > 0 && other.model == model && other.block_tokens == block_tokens;
  });
  if (group == groups_.end()) {
    group = std::find_if(groups_.begin(), groups_.end(),
                         [](const Group& other) { return other.members == 0; });
    if (group == groups_.end()) group = groups_.emplace(groups_.end());
    *group = {};
    group->model = model;
    group->block_tokens = block_tokens;
    group->plain_seed = TokenChainSeed({.model = model}, block_tokens);
  }
  if (group->lanes.size() <= lane / 64) group->lanes.resize(lane / 64 + 1);
  group->lanes[lane / 64] |= std::uint64_t{1} << lane % 64;
  ++group->members;
  return static_cast<GroupId>(group - groups_.begin());
}

void CacheGroups::Leave(GroupId group, LaneId lane) {
  Group& left = groups_[group];
  CHECK(left.members > 0);
  left.lanes[lane / 64] &= ~(std::uint64_t{1} << lane % 64);
  if (--left.members == 0) left = {};
}

void CacheGroups::SeeAdapter(GroupId group, const std::string& adapter) {
  std::vector<std::string>& adapters = groups_[group].adapters;
  const auto at = std::lower_bound(adapters.begin(), adapters.end(), adapter);
  if (at != adapters.end() && *at == adapter) return;
  if (adapters.size() < kAdaptersMax) adapters.insert(at, adapter);
}

BlockHash CacheGroups::SeedOf(GroupId group, std::string_view adapter,
                              std::string_view salt) const {
  const Group& of = groups_[group];
  if (adapter.empty() && salt.empty()) return of.plain_seed;
  return TokenChainSeed({.model = of.model, .lora = adapter, .salt = salt}, of.block_tokens);
}

void CacheGroups::For(std::string_view model, std::string_view salt,
                      std::vector<ServedBy>& served) const {
  served.clear();
  const bool a_base = std::any_of(groups_.begin(), groups_.end(), [&](const Group& group) {
    return group.members > 0 && group.model == model;
  });
  for (GroupId id = 0; id < groups_.size(); ++id) {
    const Group& group = groups_[id];
    if (group.members == 0) continue;
    const bool base = model.empty() || group.model.empty() || group.model == model;
    const bool adapter =
        !base && std::binary_search(group.adapters.begin(), group.adapters.end(), model);
    if (!base && !adapter && a_base) continue;
    served.push_back({.group = id,
                      .block_tokens = group.block_tokens,
                      .seed = SeedOf(id, adapter ? model : std::string_view{}, salt)});
  }
}

}  // namespace sublet
