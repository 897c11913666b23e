// Target dra: claims for NVIDIA's DRA driver (gpu.nvidia.com) and Deployments that use them.
//
// A partition with one replica and no MPS is claimed through a ResourceClaimTemplate, a claim of
// its own for each pod. A shared partition is one ResourceClaim that its pods have in common: so
// the plan's choice of who shares with whom is kept, which the device plugin can't do. The driver
// runs one MPS daemon a claim, with the largest of its pods' limits; each pod lowers its own by its
// environment.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "model/board.h"
#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kRequest = "gpu";

bool IsShared(const PlannedPartition& partition) {
  return partition.mode == SharingMode::kMps || partition.replicas.size() > 1;
}

std::string ListOf(const std::vector<std::string>& values) {
  std::vector<std::string> quoted;
  for (const std::string& value : values) quoted.push_back(CelString(value));
  return fmt::format("[{}]", fmt::join(quoted, ", "));
}

// What a device must be to serve a partition of `gpu`, or of one like it: `uuids` are the GPUs that
// will do where the plan is for GPUs that exist, otherwise any of the board will.
std::string SelectorOf(const PlannedGpu& gpu, const PlannedPartition& partition,
                       const std::vector<std::string>& uuids) {
  static constexpr std::string_view kAttributes = "device.attributes['gpu.nvidia.com']";
  std::vector<std::string> terms;
  if (gpu.mig) {
    terms.push_back(fmt::format("{}.profile == {}", kAttributes, CelString(partition.profile)));
  }
  if (!uuids.empty()) {
    terms.push_back(
        fmt::format("{}.{} in {}", kAttributes, gpu.mig ? "parentUUID" : "uuid", ListOf(uuids)));
  } else if (const Result<const Board*> board = BuiltInBoards().Find(gpu.board)) {
    std::vector<std::string> products = {(*board)->product};
    products.insert(products.end(), (*board)->aliases.begin(), (*board)->aliases.end());
    terms.push_back(fmt::format("{}.productName in {}", kAttributes, ListOf(products)));
  } else {
    terms.push_back(
        fmt::format("device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('{}Mi')) >= 0",
                    gpu.memory.mib()));
  }
  return fmt::format("{}", fmt::join(terms, " && "));
}

ordered_json SharingOf(const PlannedPartition& partition) {
  ordered_json sharing;
  if (partition.mode != SharingMode::kMps) {
    sharing["strategy"] = "TimeSlicing";
    sharing["timeSlicingConfig"]["interval"] = "Default";
    return sharing;
  }
  sharing["strategy"] = "MPS";
  ordered_json mps = ordered_json::object();
  const ServerDefaults defaults = DefaultsOf(partition, std::nullopt);
  if (defaults.sm_percent) mps["defaultActiveThreadPercentage"] = *defaults.sm_percent;
  if (defaults.memory_limit) {
    mps["defaultPinnedDeviceMemoryLimit"] =
        fmt::format("{}Mi", defaults.memory_limit->mib_rounded_up());
  }
  sharing["mpsConfig"] = std::move(mps);
  return sharing;
}

ordered_json ClaimSpec(const PlannedGpu& gpu, const PlannedPartition& partition,
                       const std::vector<std::string>& uuids) {
  ordered_json request;
  request["name"] = kRequest;
  request["exactly"]["deviceClassName"] = gpu.mig ? "mig.nvidia.com" : "gpu.nvidia.com";
  request["exactly"]["selectors"][0]["cel"]["expression"] = SelectorOf(gpu, partition, uuids);
  ordered_json devices;
  devices["requests"] = ordered_json::array({request});
  // A MIG instance is time-sliced as it is; the driver has no interval to set there.
  const bool configured = partition.mode == SharingMode::kMps || (IsShared(partition) && !gpu.mig);
  if (configured) {
    ordered_json config;
    config["requests"] = ordered_json::array({kRequest});
    config["opaque"]["driver"] = "gpu.nvidia.com";
    ordered_json& parameters = config["opaque"]["parameters"];
    parameters["apiVersion"] = "resource.nvidia.com/v1beta1";
    parameters["kind"] = gpu.mig ? "MigDeviceConfig" : "GpuConfig";
    parameters["sharing"] = SharingOf(partition);
    devices["config"] = ordered_json::array({config});
  }
  ordered_json spec;
  spec["devices"] = std::move(devices);
  return spec;
}

ordered_json ClaimObject(std::string_view kind, const std::string& name, const Plan& plan,
                         ordered_json spec) {
  ordered_json object;
  object["apiVersion"] = "resource.k8s.io/v1";
  object["kind"] = kind;
  object["metadata"]["name"] = name;
  object["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "sublet";
  object["metadata"]["annotations"]["sublet/fleet"] = plan.fleet;
  object["spec"] = std::move(spec);
  return object;
}

// Pods that one Deployment can hold: one workload with one claim or template and the same limits.
struct Bucket {
  const Seat* seat = nullptr;
  std::string claim;  // Name of the ResourceClaim or ResourceClaimTemplate.
  bool templated = false;
  int replicas = 0;
};

class Claims {
 public:
  explicit Claims(const Deployment& deployment) : deployment_(deployment) {
    CollectUuids();
    for (const NodeGroup& group : deployment.groups) {
      for (const Seat& seat : group.seats) Add(seat);
    }
  }

  const std::vector<Bucket>& buckets() const { return buckets_; }
  const std::vector<ordered_json>& objects() const { return objects_; }

 private:
  // Pods of partitions that are alike may swap places: a template takes any of them.
  std::string ShapeOf(const Seat& seat) const {
    return fmt::format("{} {} {} {}", seat.workload->name, seat.gpu->board, seat.partition->profile,
                       seat.gpu->uuid.empty());
  }

  void CollectUuids() {
    for (const NodeGroup& group : deployment_.groups) {
      for (const Seat& seat : group.seats) {
        if (seat.gpu->uuid.empty() || IsShared(*seat.partition)) continue;
        std::vector<std::string>& uuids = uuids_[ShapeOf(seat)];
        if (std::find(uuids.begin(), uuids.end(), seat.gpu->uuid) == uuids.end()) {
          uuids.push_back(seat.gpu->uuid);
        }
      }
    }
  }

  void Add(const Seat& seat) {
    const bool templated = !IsShared(*seat.partition);
    const std::string place = templated ? "* " + ShapeOf(seat) : seat.partition->name;
    if (!claims_.contains(place)) claims_.emplace(place, AddClaim(seat, templated));
    const std::string key = fmt::format("{}\n{}\n{}\n{}", place, seat.workload->name,
                                        MpsMemoryLimit(*seat.replica).value_or(Bytes{}).count,
                                        seat.replica->sm_percent.value_or(0));
    const auto [found, added] = known_.emplace(key, buckets_.size());
    if (added) buckets_.push_back({&seat, claims_.at(place), templated, 0});
    ++buckets_[found->second].replicas;
  }

  std::string AddClaim(const Seat& seat, bool templated) {
    std::vector<std::string> uuids;
    if (templated) {
      uuids = uuids_[ShapeOf(seat)];
    } else if (!seat.gpu->uuid.empty()) {
      uuids = {seat.gpu->uuid};
    }
    ordered_json spec = ClaimSpec(*seat.gpu, *seat.partition, uuids);
    std::string name = names_.Name(templated ? seat.workload->name : seat.partition->name);
    if (templated) {
      ordered_json of_template;
      of_template["spec"] = std::move(spec);
      spec = std::move(of_template);
    }
    objects_.push_back(ClaimObject(templated ? "ResourceClaimTemplate" : "ResourceClaim", name,
                                   *deployment_.plan, std::move(spec)));
    return name;
  }

  const Deployment& deployment_;
  UniqueNames names_{UniqueNames::Form::kDnsSubdomain};
  std::map<std::string, std::vector<std::string>> uuids_;  // Shape to GPUs.
  std::map<std::string, std::string> claims_;              // Place to claim.
  std::map<std::string, std::size_t> known_;               // Bucket key to index.
  std::vector<Bucket> buckets_;
  std::vector<ordered_json> objects_;
};

}  // namespace

TargetFiles RenderDra(const Deployment& deployment) {
  const Claims claims(deployment);
  std::vector<ordered_json> deployments;
  UniqueNames names(UniqueNames::Form::kDnsLabel);
  for (const Bucket& bucket : claims.buckets()) {
    ordered_json reference;
    reference["name"] = kRequest;
    reference[bucket.templated ? "resourceClaimTemplateName" : "resourceClaimName"] = bucket.claim;
    ordered_json pod;
    pod["resourceClaims"] = ordered_json::array({reference});
    ordered_json resources;
    resources["claims"][0]["name"] = kRequest;
    deployments.push_back(DeploymentObject(
        *deployment.plan,
        {names.Name(bucket.seat->workload->name), bucket.seat, bucket.replicas, &pod, &resources}));
  }
  return {
      {"dra-claims.yaml",
       {"Claims for the driver gpu.nvidia.com, to be applied before dra-deployments.yaml and to "
        "the "
        "same namespace.",
        "The driver accepts strategy MPS only with its feature gate MPSSupport, and TimeSlicing "
        "only with TimeSlicingSettings; both are off by default. MIG instances must exist "
        "(target mig); the driver's own DynamicMIG excludes MPSSupport."},
       YamlDocuments(claims.objects())},
      {"dra-deployments.yaml",
       {"The pods that use the claims of dra-claims.yaml."},
       YamlDocuments(deployments)}};
}

}  // namespace sublet
