#include "proxy/replica_sources.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/check.h"

namespace sublet {
namespace {

constexpr std::array kTellers{kFromConfig, kFromApi, kFromNode, kFromKubernetes};

int RankOf(std::string_view teller) {
  const auto* const at = std::find(kTellers.begin(), kTellers.end(), teller);
  CHECK(at != kTellers.end());
  return static_cast<int>(at - kTellers.begin());
}

bool ByName(const ReplicaSpec& a, const ReplicaSpec& b) {
  return a.name < b.name;
}

// What its cache holds stays true.
bool SameEngine(const ReplicaSpec& a, const ReplicaSpec& b) {
  return a.url == b.url && a.kv_events == b.kv_events && a.source == b.source;
}

}  // namespace

void ReplicaSources::Tell(std::string_view teller, std::vector<ReplicaSpec> replicas) {
  for (ReplicaSpec& spec : replicas) spec.source = teller;
  told_[RankOf(teller)] = std::move(replicas);
}

std::vector<ReplicaSpec> ReplicaSources::ToldBy(std::string_view teller) const {
  const auto told = told_.find(RankOf(teller));
  return told == told_.end() ? std::vector<ReplicaSpec>{} : told->second;
}

SourceVerdict ReplicaSources::Wanted() const {
  SourceVerdict verdict;
  std::map<std::string_view, const ReplicaSpec*> names;
  std::map<std::string_view, const ReplicaSpec*> urls;
  for (const auto& [rank, replicas] : told_) {
    for (const ReplicaSpec& spec : replicas) {
      const auto same_name = names.find(spec.name);
      const auto same_url = urls.find(spec.url);
      if (same_name != names.end()) {
        verdict.refused.push_back({spec, fmt::format("{} has this name already: {}",
                                                     same_name->second->source, spec.name)});
      } else if (same_url != urls.end()) {
        verdict.refused.push_back(
            {spec, fmt::format("{} of {} has this URL already: {}", same_url->second->name,
                               same_url->second->source, spec.url)});
      } else {
        names.emplace(spec.name, &spec);
        urls.emplace(spec.url, &spec);
        verdict.wanted.push_back(spec);
      }
    }
  }
  std::sort(verdict.wanted.begin(), verdict.wanted.end(), ByName);
  return verdict;
}

std::vector<ReplicaStep> StepsTo(const std::vector<ReplicaSpec>& has,
                                 const std::vector<ReplicaSpec>& wanted) {
  std::vector<ReplicaStep> steps;
  std::map<std::string_view, const ReplicaSpec*> old;
  for (const ReplicaSpec& spec : has) old.emplace(spec.name, &spec);
  std::set<std::string_view> names;
  for (const ReplicaSpec& spec : wanted) names.insert(spec.name);
  for (const ReplicaSpec& spec : has) {
    if (!names.contains(spec.name)) steps.push_back({ReplicaStep::What::kDrain, spec});
  }
  for (const ReplicaSpec& spec : wanted) {
    const auto before = old.find(spec.name);
    if (before == old.end()) {
      steps.push_back({ReplicaStep::What::kAdd, spec});
    } else if (!SameEngine(*before->second, spec)) {
      steps.push_back({ReplicaStep::What::kReplace, spec});
    } else if (*before->second != spec) {
      steps.push_back({ReplicaStep::What::kUpdate, spec});
    }
  }
  return steps;
}

}  // namespace sublet
