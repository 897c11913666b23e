// proxy/replica_sources.h
//
// Which replicas there shall be, from what several tellers say, and the steps from those that there
// are to them. Pure.
//
//   ReplicaSources sources;
//   sources.Tell("config", specs);
//   sources.Tell("kubernetes", found);              // Each time the whole list.
//   const SourceVerdict verdict = sources.Wanted();
//   for (const ReplicaStep& step : StepsTo(router_has, verdict.wanted)) ...
//
// Tellers rank: config, api, node, kubernetes. Where two tell of one name or of one URL, the first
// is heard, and the other is in `refused` with the reason, until the first one tells no more of it.
// A teller that is away says nothing, so its last list stands.
//
// Thread safety: a value; its owner's.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/replica_spec.h"

namespace sublet {

inline constexpr std::string_view kFromConfig = "config";
inline constexpr std::string_view kFromApi = "api";
inline constexpr std::string_view kFromNode = "node";
inline constexpr std::string_view kFromKubernetes = "kubernetes";

struct RefusedReplica {
  ReplicaSpec spec;
  std::string why;  // "chat/0 of config has this URL"
};

struct SourceVerdict {
  std::vector<ReplicaSpec> wanted;  // By name; `source` is set.
  std::vector<RefusedReplica> refused;
};

struct ReplicaStep {
  enum class What {
    kAdd,
    kUpdate,   // What is known of it has changed.
    kReplace,  // Another URL or other events: what its cache holds is not this one's.
    kDrain,    // No new requests; gone when its last one is done.
  };
  What what = What::kAdd;
  ReplicaSpec spec;  // As it shall be; of kDrain: as it was.
  friend bool operator==(const ReplicaStep&, const ReplicaStep&) = default;
};

class ReplicaSources {
 public:
  // Replaces what this teller said before.
  void Tell(std::string_view teller, std::vector<ReplicaSpec> replicas);
  // What it said last; empty: nothing yet.
  std::vector<ReplicaSpec> ToldBy(std::string_view teller) const;
  SourceVerdict Wanted() const;

 private:
  std::map<int, std::vector<ReplicaSpec>> told_;  // By rank.
};

// Both lists by name. Those that go stand first, so that a name or a URL is free for its next
// owner.
std::vector<ReplicaStep> StepsTo(const std::vector<ReplicaSpec>& has,
                                 const std::vector<ReplicaSpec>& wanted);

}  // namespace sublet
