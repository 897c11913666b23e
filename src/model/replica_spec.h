// model/replica_spec.h
//
// A replica of a model as a router is told of it: where it listens, and what share of which GPU it
// has. From a route file (model/route_config.h), a node's daemon, Kubernetes, or the workers' API.
//
// Everything but name and URL may be unknown: rates are learnt while requests are served,
// capacities from the replica's metrics.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sublet {

// Where an engine announces its KV cache. One engine of several data-parallel ranks has a socket a
// rank, on ports that count up.
struct KvEventSource {
  std::string endpoint;         // "tcp://10.0.0.7:5557"
  std::string replay_endpoint;  // Empty: gaps can't be filled.
  std::string topic;            // Prefix of the topics to take; empty: all.
  int ranks = 1;                // Data-parallel ones, each with a socket of its own.

  friend bool operator==(const KvEventSource&, const KvEventSource&) = default;
};

// The part of a GPU that a replica has. Replicas with the same `gpu` slow each other.
struct ReplicaShare {
  std::string gpu;                                  // Its UUID, or any name; empty: its own.
  std::optional<double> sm_percent;                 // Its cap; absent: none, all of the GPU.
  std::optional<double> prefill_tokens_per_second;  // Alone on the GPU.
  std::optional<double> decode_step_ms;             // Of a small batch, alone on the GPU.
  std::optional<std::int64_t> kv_blocks;
  std::optional<int> kv_block_tokens;

  friend bool operator==(const ReplicaShare&, const ReplicaShare&) = default;
};

struct ReplicaSpec {
  std::string name;                 // Unique in a router: "chat/0".
  std::string url;                  // "http://127.0.0.1:8001", "https://...", with a path or not.
  std::vector<std::string> models;  // Served; empty: it is asked (/v1/models).
  std::string tenant;               // Whose requests it takes; empty: everybody's.
  ReplicaShare share;
  std::optional<KvEventSource> kv_events;
  int in_flight_max = 256;  // vLLM's default of max_num_seqs.
  // Who told of it: "config", "api", "node", "kubernetes". Only its teller takes it away.
  std::string source = "config";

  friend bool operator==(const ReplicaSpec&, const ReplicaSpec&) = default;
};

}  // namespace sublet
