#include "model/fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "model/document.h"
#include "model/name.h"

namespace sublet {
namespace {

// Upper ends of numbers. Each is far above what exists, so that what is above it is a wrong unit or
// a slip, and low enough that sums over kReplicasMax replicas stay exact.
constexpr Bytes kMemoryMax = 16384_GiB;
constexpr Bytes kMemoryMin = 1_MiB;
constexpr Range kPrice{.min = 0.0001, .max = 100'000};  // A price of 0 would make all plans equal.
constexpr Range kPart{.min = 0.1, .max = 100};
constexpr Range kMilliseconds{.min = 0.0001, .max = 1e9};
constexpr Range kRate{.min = 0, .max = 1e9};
constexpr Range kVariation{.min = 0, .max = 1000};
constexpr Range kCount{.min = 1, .max = 1'000'000};
constexpr Range kPort{.min = 1, .max = 65535};
constexpr Range kStopTimeout{.min = 0, .max = 86'400};
constexpr Range kEngines{.min = 0, .max = 64};
constexpr std::size_t kCommandMax = 1000;  // Words; more belong into a script.

constexpr std::string_view kDefaultTenant = "default";

Result<Bytes> ReadMemory(const Node& node) {
  ASSIGN_OR_RETURN(const Bytes memory, ReadBytes(node));
  if (memory < kMemoryMin) {
    return FailAt(node, fmt::format("too little memory to be meant: {}", FormatBytes(memory)),
                  "a number without unit counts bytes; write it like 20GiB");
  }
  if (memory > kMemoryMax) {
    return FailAt(node, fmt::format("more memory than any GPU has: {}", FormatBytes(memory)));
  }
  return Bytes::FromMib(memory.mib_rounded_up());
}

Result<std::string> ReadDtype(const Node& node) {
  ASSIGN_OR_RETURN(std::string dtype, ReadString(node));
  std::vector<std::string_view> known;
  for (const ModelDtype& candidate : ModelDtypes()) {
    if (candidate.name == dtype) return dtype;
    known.push_back(candidate.name);
  }
  return FailAt(node, fmt::format("unknown data type: '{}'", dtype.substr(0, kNameMax)),
                SuggestFor(dtype, known));
}

Result<GpuPool> ReadPool(const Node& node) {
  GpuPool pool;
  ObjectReader in(node, "gpu pool");
  in.Required("board", pool.board, ReadName);
  in.Optional("count", pool.count, {.min = 1, .max = kReplicasMax});
  in.Optional("price_usd_hour", pool.price_usd_hour, kPrice);
  RETURN_IF_ERROR(in.Finish());
  return pool;
}

Result<Tenant> ReadTenant(const Node& node) {
  Tenant tenant;
  ObjectReader in(node, "tenant");
  in.Required("name", tenant.name, ReadName);
  in.OptionalEnum("isolation", tenant.isolation, IsolationWords());
  RETURN_IF_ERROR(in.Finish());
  return tenant;
}

// What a KV cache needs to be known, or must not be there without one.
void CheckShape(const ModelShape& model, ObjectReader& in) {
  if (model.layers == 0) {
    for (const std::string_view key : {"kv_heads", "kv_dtype", "head_dim"}) {
      if (in.Has(key)) {
        in.Reject(key,
                  fmt::format("without layers there is no KV cache, so {} has no meaning", key));
      }
    }
    return;
  }
  if (model.heads == 0) return in.Reject("layers", "a model with layers needs heads");
  if (model.context_tokens == 0) {
    return in.Reject("layers", "a model with layers needs context_tokens");
  }
  if (model.head_dim == 0 && model.hidden_size == 0) {
    return in.Reject("layers", "a model with layers needs head_dim or hidden_size");
  }
  if (model.head_dim == 0 && model.hidden_size % model.heads != 0) {
    return in.Reject(
        "hidden_size",
        fmt::format("hidden_size {} is no multiple of heads {}", model.hidden_size, model.heads),
        "give head_dim");
  }
  if (model.kv_heads > 0 && model.heads % model.kv_heads != 0) {
    in.Reject("kv_heads",
              fmt::format("heads {} is no multiple of kv_heads {}", model.heads, model.kv_heads));
  }
}

Result<ModelShape> ReadModel(const Node& node) {
  ModelShape model;
  ObjectReader in(node, "model");
  in.Required("parameters", model.parameters, {.min = 1000, .max = 1e14});
  in.Optional("dtype", model.dtype, ReadDtype);
  in.Optional("layers", model.layers, {.min = 0, .max = 10'000});
  in.Optional("heads", model.heads, {.min = 1, .max = 100'000});
  in.Optional("kv_heads", model.kv_heads, {.min = 1, .max = 100'000});
  in.Optional("head_dim", model.head_dim, {.min = 1, .max = 100'000});
  in.Optional("hidden_size", model.hidden_size, {.min = 1, .max = 10'000'000});
  in.Optional("kv_dtype", model.kv_dtype, ReadDtype);
  in.Optional("context_tokens", model.context_tokens, {.min = 1, .max = 1e9});
  in.Optional("concurrency", model.concurrency, kCount);
  CheckShape(model, in);
  RETURN_IF_ERROR(in.Finish());
  return Completed(model);
}

Result<SpeedPoint> ReadSpeedPoint(const Node& node) {
  SpeedPoint point;
  ObjectReader in(node, "profile point");
  in.Required("sm_percent", point.sm_percent, kPart);
  in.Required("speed", point.speed, {.min = 0.0001, .max = 1});
  RETURN_IF_ERROR(in.Finish());
  return point;
}

void CheckProfile(const std::vector<SpeedPoint>& profile, ObjectReader& in) {
  for (std::size_t i = 1; i < profile.size(); ++i) {
    if (profile[i].sm_percent <= profile[i - 1].sm_percent ||
        profile[i].speed < profile[i - 1].speed) {
      return in.Reject("profile", fmt::format("the points must ascend: {} % after {} %",
                                              profile[i].sm_percent, profile[i - 1].sm_percent));
    }
  }
  if (profile.empty() || profile.back().sm_percent != 100 || profile.back().speed != 1) {
    in.Reject("profile", "the last point must be {sm_percent: 100, speed: 1}",
              "speeds are relative to the one on all SMs");
  }
}

// The need of a workload whose profile was measured. A speed above 0 keeps its service time finite.
ComputeNeed NeedOf(WorkloadProfile profile) {
  constexpr double kSpeedMin = 0.0001;
  ComputeNeed compute;
  const std::vector<double> speeds = profile.Speeds();
  for (std::size_t i = 0; i < speeds.size(); ++i) {
    compute.profile.push_back(
        {static_cast<double>(profile.points[i].sm_percent), std::max(kSpeedMin, speeds[i])});
  }
  compute.measured_on = profile.board;
  compute.measured = std::move(profile);
  return compute;
}

// Is `profile` the name of a file, not a list of points?
bool NamesProfile(const Node& compute) {
  const Node* profile = compute.Find("profile");
  return profile != nullptr && profile->kind == Node::Kind::kScalar;
}

Result<ComputeNeed> ReadCompute(const Node& node, bool has_kv_cache, ProfileBook& book) {
  ComputeNeed compute;
  ObjectReader in(node, "compute");
  if (NamesProfile(node)) {
    in.Optional("profile", compute, [&](const Node& name) -> Result<ComputeNeed> {
      ASSIGN_OR_RETURN(WorkloadProfile profile, book.Open(name));
      return NeedOf(std::move(profile));
    });
    if (in.Has("measured_on")) {
      in.Reject("measured_on", "a profile in a file says itself where it was measured");
    }
  } else {
    in.OptionalList("profile", compute.profile, ReadSpeedPoint);
  }
  std::optional<double> bandwidth;
  if (compute.measured) bandwidth = compute.measured->bandwidth_percent;
  in.Optional("sm_percent", compute.sm_percent, kPart);
  in.Optional("bandwidth_percent", bandwidth, {.min = 0, .max = 100});
  in.Optional("measured_on", compute.measured_on, ReadName);
  if (in.Has("profile")) {
    if (in.Has("sm_percent")) in.Reject("sm_percent", "give sm_percent or profile, not both");
    CheckProfile(compute.profile, in);
  }
  RETURN_IF_ERROR(in.Finish());
  const auto full_speed = std::find_if(compute.profile.begin(), compute.profile.end(),
                                       [](const SpeedPoint& point) { return point.speed == 1; });
  if (full_speed != compute.profile.end()) compute.sm_percent = full_speed->sm_percent;
  compute.bandwidth_percent = bandwidth.value_or(has_kv_cache ? 100 : compute.sm_percent);
  return compute;
}

// What the load doesn't say of a request, a measured profile does: its unit is a request.
Result<std::optional<Load>> ReadLoad(const Node& node,
                                     const std::optional<WorkloadProfile>& measured) {
  Load load;
  if (measured) {
    load.service_ms = measured->service_ms;
    load.steps = measured->steps;
  }
  ObjectReader in(node, "load");
  in.Required("requests_per_second", load.requests_per_second, kRate);
  in.Optional("service_ms", load.service_ms, kMilliseconds);
  in.Optional("service_variability", load.service_variability, kVariation);
  in.Optional("steps", load.steps, kCount);
  in.Optional("burstiness", load.burstiness, kVariation);
  if (!measured && !in.Has("service_ms")) {
    in.RejectMissing("missing key in load: 'service_ms'",
                     "one request alone on the whole GPU, in ms; or name a measured profile");
  }
  RETURN_IF_ERROR(in.Finish());
  return std::optional<Load>(load);
}

Result<LatencyTarget> ReadLatency(const Node& node) {
  LatencyTarget latency;
  ObjectReader in(node, "latency");
  in.Optional("p50_ms", latency.p50_ms, kMilliseconds);
  in.Optional("p99_ms", latency.p99_ms, kMilliseconds);
  if (!latency.p50_ms && !latency.p99_ms) {
    in.Reject("p99_ms", "a latency target needs p50_ms or p99_ms");
  }
  if (latency.p50_ms && latency.p99_ms && *latency.p50_ms > *latency.p99_ms) {
    in.Reject("p50_ms",
              fmt::format("p50_ms {} is above p99_ms {}", *latency.p50_ms, *latency.p99_ms));
  }
  RETURN_IF_ERROR(in.Finish());
  return latency;
}

Result<EngineCounts> ReadEngines(const Node& node) {
  EngineCounts engines;
  ObjectReader in(node, "engines");
  in.Optional("decoder", engines.decoder, kEngines);
  in.Optional("encoder", engines.encoder, kEngines);
  in.Optional("jpeg", engines.jpeg, kEngines);
  in.Optional("ofa", engines.ofa, kEngines);
  RETURN_IF_ERROR(in.Finish());
  return engines;
}

Result<std::map<std::string, std::string>> ReadEnv(const Node& node) {
  if (node.kind != Node::Kind::kMap) {
    return FailAt(node, "env must be a map from names to values");
  }
  std::map<std::string, std::string> env;
  for (const auto& [name, value] : node.fields) {
    const bool named = !name.empty() && !(name[0] >= '0' && name[0] <= '9') &&
                       std::all_of(name.begin(), name.end(), [](char c) {
                         return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                                (c >= '0' && c <= '9') || c == '_';
                       });
    if (!named) {
      return FailAt(
          value,
          fmt::format("not a name of an environment variable: '{}'", name.substr(0, kNameMax)),
          "use letters, digits and '_', with no digit in front");
    }
    ASSIGN_OR_RETURN(env[name], ReadString(value));
  }
  return env;
}

// Either a size or a model to estimate it from, or neither where it was measured; sets memory and
// memory_how but in that last case.
void ReadNeed(ObjectReader& in, bool measured, Workload& workload,
              std::optional<ModelShape>& model) {
  const bool given = in.Has("memory");
  if (given && in.Has("model")) {
    return in.Reject("model", "give memory or model, not both");
  }
  if (given) {
    in.Required("memory", workload.memory, ReadMemory);
    workload.memory_how = "given";
    return;
  }
  if (!in.Has("model")) {
    if (!measured) in.RejectMissing("a workload needs memory or model");
    return;
  }
  in.Optional("model", model, ReadModel);
  if (!model) return;
  const MemoryEstimate estimate = EstimateMemory(*model);
  workload.memory = estimate.Total();
  workload.memory_how = fmt::format("{} weights", FormatBytes(estimate.weights));
  if (estimate.kv_cache.count > 0) {
    workload.memory_how += fmt::format(" + {} KV cache", FormatBytes(estimate.kv_cache));
  }
  workload.memory_how += fmt::format(" + {} activations", FormatBytes(estimate.activations));
  if (workload.memory > kMemoryMax) {
    in.Reject("model", fmt::format("needs more memory than any GPU has: {} ({})",
                                   FormatBytes(workload.memory), workload.memory_how));
  }
}

// How its processes live.
void ReadLaunch(ObjectReader& in, Workload& workload) {
  in.Optional("port", workload.port, kPort);
  in.Optional("ready", workload.ready, ReadReadiness);
  in.OptionalEnum("restart", workload.restart, RestartPolicyWords());
  in.Optional("stop_timeout_s", workload.stop_timeout_s, kStopTimeout);
  if (std::string wrong = PortProblem(workload.port, workload.replicas, workload.ready);
      !wrong.empty()) {
    in.Reject(in.Has("port") ? "port" : "ready", std::move(wrong),
              in.Has("port") ? "" : "give port: 8000, or a probe by command");
  }
  if (workload.port && workload.env.contains("PORT")) {
    in.Reject("env", "env sets PORT, which each replica gets from the workload's port",
              "leave one of the two out");
  }
}

Result<Workload> ReadWorkload(const Node& node, ProfileBook& book) {
  Workload workload;
  workload.tenant = kDefaultTenant;
  std::optional<ModelShape> model;
  ObjectReader in(node, "workload");
  in.Required("name", workload.name, ReadName);
  in.Optional("tenant", workload.tenant, ReadName);
  in.Optional("replicas", workload.replicas, {.min = 1, .max = kReplicasMax});
  const Node* need = node.Find("compute");
  ReadNeed(in, need != nullptr && NamesProfile(*need), workload, model);
  const bool has_kv_cache = model && model->layers > 0;
  in.Optional("compute", workload.compute,
              [&](const Node& compute) { return ReadCompute(compute, has_kv_cache, book); });
  const std::optional<WorkloadProfile>& measured = workload.compute.measured;
  if (measured && workload.memory_how.empty()) {
    workload.memory = std::max(kMemoryMin, measured->memory);
    workload.memory_how = fmt::format("measured: {} at its peak", measured->name);
  }
  in.Optional("load", workload.load, [&](const Node& load) { return ReadLoad(load, measured); });
  in.Optional("latency", workload.latency, ReadLatency);
  in.OptionalEnum("isolation", workload.isolation, IsolationWords());
  in.Optional("engines", workload.engines, ReadEngines);
  in.Optional("priority", workload.priority, {.min = -100, .max = 100});
  in.OptionalList("command", workload.command, ReadString);
  in.Optional("image", workload.image);
  in.Optional("env", workload.env, ReadEnv);
  ReadLaunch(in, workload);
  if (in.Has("latency") && !in.Has("load")) {
    in.Reject("latency", "a latency target needs load",
              "give load: {requests_per_second: ..., service_ms: ...}");
  }
  if (workload.command.size() > kCommandMax) {
    in.Reject("command", fmt::format("more than {} words", kCommandMax));
  }
  RETURN_IF_ERROR(in.Finish());
  return workload;
}

// Reads the list items of a fleet and keeps what only the whole file can tell.
class FleetReader {
 public:
  explicit FleetReader(const FileLoader& loader) : book_(loader) {}

  Result<Fleet> Read(const Node& node) {
    ObjectReader in(node, "fleet");
    in.Version(kFleetVersion);
    in.Required("name", fleet_.name, ReadName);
    in.OptionalList("gpus", fleet_.gpus, [this](const Node& item) { return Pool(item); });
    tenants_declared_ = in.Has("tenants");
    std::vector<Tenant> tenants;
    in.OptionalList("tenants", tenants, [this](const Node& item) { return DeclaredTenant(item); });
    in.RequiredList("workloads", fleet_.workloads,
                    [this](const Node& item) { return OneWorkload(item); });
    if (in.Has("workloads") && fleet_.workloads.empty()) {
      in.Reject("workloads", "a fleet needs a workload");
    }
    RETURN_IF_ERROR(in.Finish());
    return std::move(fleet_);
  }

 private:
  Result<GpuPool> Pool(const Node& node) {
    ASSIGN_OR_RETURN(GpuPool pool, ReadPool(node));
    // The same board at two prices is useful (reserved and on demand); at one price it is a slip.
    if (!pools_.emplace(pool.board, pool.price_usd_hour).second) {
      return FailAt(node, fmt::format("the same board at the same price twice: '{}'", pool.board),
                    "add the counts");
    }
    return pool;
  }

  Result<Tenant> DeclaredTenant(const Node& node) {
    ASSIGN_OR_RETURN(Tenant tenant, ReadTenant(node));
    if (FindTenant(tenant.name) != nullptr) {
      return FailAt(node, fmt::format("two tenants of one name: '{}'", tenant.name));
    }
    fleet_.tenants.push_back(tenant);
    return tenant;
  }

  Result<Workload> OneWorkload(const Node& node) {
    ASSIGN_OR_RETURN(Workload workload, ReadWorkload(node, book_));
    if (!names_.insert(workload.name).second) {
      return FailAt(node, fmt::format("two workloads of one name: '{}'", workload.name));
    }
    if (names_.size() > static_cast<std::size_t>(kWorkloadsMax)) {
      return FailAt(node, fmt::format("more than {} workloads", kWorkloadsMax),
                    "workloads that are alike can be one with several replicas");
    }
    RETURN_IF_ERROR(TakePorts(node, workload));
    replicas_ += workload.replicas;
    if (replicas_ > kReplicasMax) {
      return FailAt(node, fmt::format("more than {} replicas", kReplicasMax));
    }
    if (FindTenant(workload.tenant) == nullptr) {
      if (tenants_declared_ && workload.tenant != kDefaultTenant) {
        return UnknownTenant(*node.Find("tenant"), workload.tenant);
      }
      fleet_.tenants.push_back({.name = workload.tenant});
    }
    workload.isolation = std::max(workload.isolation, FindTenant(workload.tenant)->isolation);
    return workload;
  }

  // Two workloads of one fleet may meet on one machine, where a port has one owner.
  Status TakePorts(const Node& node, const Workload& workload) {
    if (!workload.port) return {};
    const int first = *workload.port;
    const int last = first + workload.replicas - 1;
    const auto next = ports_.lower_bound(first);
    const auto* other = next != ports_.end() && next->second.first <= last ? &*next : nullptr;
    if (other != nullptr) {
      return FailAt(*node.Find("port"),
                    fmt::format("ports {} to {} overlap those of workload '{}': {} to {}", first,
                                last, other->second.second, other->second.first, other->first),
                    "each replica needs one: leave as many free as there are replicas");
    }
    ports_.emplace(last, std::pair(first, workload.name));
    return {};
  }

  tl::unexpected<Error> UnknownTenant(const Node& node, const std::string& name) const {
    std::vector<std::string_view> known;
    for (const Tenant& tenant : fleet_.tenants) known.push_back(tenant.name);
    return FailAt(node, fmt::format("no such tenant: '{}'", name), SuggestFor(name, known));
  }

  const Tenant* FindTenant(std::string_view name) const {
    const auto found = std::find_if(fleet_.tenants.begin(), fleet_.tenants.end(),
                                    [&](const Tenant& tenant) { return tenant.name == name; });
    return found == fleet_.tenants.end() ? nullptr : &*found;
  }

  ProfileBook book_;
  Fleet fleet_;
  std::set<std::pair<std::string, std::optional<double>>> pools_;
  std::set<std::string> names_;
  std::map<int, std::pair<int, std::string>>
      ports_;  // The last of a workload: its first, its name.
  bool tenants_declared_ = false;
  int replicas_ = 0;
};

}  // namespace

int Fleet::ReplicaCount() const {
  int count = 0;
  for (const Workload& workload : workloads) count += workload.replicas;
  return count;
}

Result<Fleet> ParseFleet(std::string_view text, std::string_view source, const FileLoader& loader) {
  return ParseAs(text, source, [&](const Node& node) { return FleetReader(loader).Read(node); });
}

}  // namespace sublet
