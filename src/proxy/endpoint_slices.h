// proxy/endpoint_slices.h
//
// Kubernetes' EndpointSlices as the replicas behind them: what a list and the events of a watch
// say, kept as a value. Pure; proxy/kubernetes_watch.h does the talking.
//
//   EndpointSlices slices;
//   RETURN_IF_ERROR(slices.TakePage(list_body));        // Page by page; the last one completes it.
//   ASSIGN_OR_RETURN(const WatchEvent event, slices.TakeEvent(line));
//   slices.Replicas(settings)                           // One for each endpoint that is ready.
//
// Only what is needed is read, and fields that are unknown are passed over, as Kubernetes asks of
// its clients. An endpoint counts where `ready` isn't false (absent means ready, as the API says)
// and it isn't terminating. A pod that is in two slices (while one is split, or IPv4 and IPv6)
// counts once, by IPv4 where it has it.
//
// Source: discovery.k8s.io/v1, "Efficient detection of changes" of the API's concepts.
//
// Thread safety: a value; its owner's.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/replica_spec.h"
#include "model/route_config.h"

namespace sublet {

struct SliceEndpoint {
  std::string pod;      // Of its targetRef; empty: none.
  std::string address;  // The first, which is the one that counts.
  bool ready = true;
};

struct SlicePort {
  std::string name;
  int port = 0;
};

struct EndpointSlice {
  bool ipv6 = false;
  std::vector<SlicePort> ports;
  std::vector<SliceEndpoint> endpoints;
};

enum class WatchEvent {
  kChanged,
  kBookmark,  // Only the version went on.
  kExpired,   // 410 Gone: what was missed is lost, list again.
};

class EndpointSlices {
 public:
  // A page of a list. Its slices replace all that were known once the last page is there: before
  // that a page that fails has changed nothing. kInvalid where it is no EndpointSliceList.
  Status TakePage(std::string_view body);
  // Where the next page of the list begins; empty: there is none.
  const std::string& next_page() const { return next_page_; }
  void ForgetPages();  // A list that was broken off.

  // A line of a watch. kInvalid where it is no event; kUnavailable for an error that isn't 410.
  Result<WatchEvent> TakeEvent(std::string_view line);
  // From which to watch on.
  const std::string& version() const { return version_; }

  // By name: the pod's, else its address and port. `why` says what was left out and shouldn't have
  // been: a port that isn't there.
  std::vector<ReplicaSpec> Replicas(const KubernetesDiscovery& wanted, std::string& why) const;
  std::size_t size() const { return slices_.size(); }

 private:
  std::map<std::string, EndpointSlice> slices_;  // By name.
  std::map<std::string, EndpointSlice> pages_;   // Of a list that isn't complete.
  std::string next_page_;
  std::string version_;
};

}  // namespace sublet
