// Target kubernetes: Deployments on top of NVIDIA's device plugin.
//
// A pod asks for one replica of a resource. It can't name a GPU, so pods are sent to nodes that
// advertise the resource in the planned way: by host name where the plan has one, otherwise by the
// plugin's configuration label, and by the label with which GPU feature discovery says how a
// resource is shared. So a pod that is to have a GPU for itself doesn't get a replica of a shared
// one: it stays pending.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

// Replicas that one Deployment can hold: equal in all that a pod template says.
struct Bucket {
  const NodeGroup* group = nullptr;
  const Seat* seat = nullptr;
  std::size_t group_index = 0;
  int replicas = 0;
};

std::vector<Bucket> BucketsOf(const Deployment& deployment) {
  std::vector<Bucket> buckets;
  std::map<std::string, std::size_t> known;
  for (std::size_t i = 0; i < deployment.groups.size(); ++i) {
    const NodeGroup& group = deployment.groups[i];
    for (const Seat& seat : group.seats) {
      const std::string key = fmt::format(
          "{} {} {} {} {} {}", i, seat.workload->name, PluginResource(*seat.partition),
          seat.partition->replicas.size(), MpsMemoryLimit(*seat.replica).value_or(Bytes{}).count,
          seat.replica->sm_percent.value_or(0));
      const auto [found, added] = known.emplace(key, buckets.size());
      if (added) buckets.push_back({&group, &seat, i, 0});
      ++buckets[found->second].replicas;
    }
  }
  return buckets;
}

ordered_json SelectorOf(const Bucket& bucket, const std::string& config) {
  ordered_json selector = ordered_json::object();
  if (!bucket.group->node.empty()) {
    selector["kubernetes.io/hostname"] = bucket.group->node;
  } else if (!config.empty()) {
    selector["nvidia.com/device-plugin.config"] = config;
  }
  const PlannedPartition& partition = *bucket.seat->partition;
  selector[PluginResource(partition) + ".sharing-strategy"] =
      PluginSharing(*bucket.group, partition);
  return selector;
}

ordered_json EnvOf(const Seat& seat) {
  ordered_json env = ordered_json::array();
  const auto add = [&](const std::string& name, const std::string& value) {
    ordered_json variable;
    variable["name"] = name;
    variable["value"] = value;
    env.push_back(std::move(variable));
  };
  for (const auto& [name, value] : seat.workload->env) add(name, KubernetesLiteral(value));
  // Each pod has a network of its own, so all replicas listen on the first port.
  if (seat.workload->port) add("PORT", std::to_string(*seat.workload->port));
  if (seat.server == nullptr) return env;
  if (seat.replica->sm_percent) {
    add("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", std::to_string(*seat.replica->sm_percent));
  }
  // The pod sees one GPU. Naming one that it doesn't see would lift every limit.
  if (const std::optional<Bytes> limit = MpsMemoryLimit(*seat.replica)) {
    add("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", fmt::format("0={}M", limit->mib_rounded_up()));
  }
  return env;
}

// What the kubelet does to find out whether a replica is ready: as a startup probe until the time
// for starting is over, as a readiness probe from then on. Its times are whole seconds.
void AddProbes(const Readiness& ready, std::optional<int> port, ordered_json& container) {
  ordered_json probe;
  if (!ready.http.empty()) {
    probe["httpGet"]["path"] = KubernetesLiteral(ready.http);
    probe["httpGet"]["port"] = port.value_or(0);
  } else if (ready.tcp) {
    probe["tcpSocket"]["port"] = port.value_or(0);
  } else {
    for (const std::string& word : ready.command) {
      probe["exec"]["command"].push_back(KubernetesLiteral(word));
    }
  }
  const int period_s = static_cast<int>(std::ceil(ready.period_s));
  probe["periodSeconds"] = period_s;
  container["readinessProbe"] = probe;
  probe["failureThreshold"] = static_cast<int>(std::ceil(ready.timeout_s / period_s));
  container["startupProbe"] = std::move(probe);
}

}  // namespace

std::string ImageOf(const PlannedWorkload& workload) {
  // The domain "invalid" never resolves, so that a pod can't start something that nobody chose.
  if (workload.image.empty()) {
    return fmt::format("sublet.invalid/{}:set-the-image",
                       UniqueNames(UniqueNames::Form::kDnsLabel).Name(workload.name));
  }
  return workload.image;
}

std::string YamlDocuments(const std::vector<ordered_json>& documents) {
  std::string out;
  for (const ordered_json& document : documents) out += "---\n" + YamlText(document);
  return out;
}

ordered_json DeploymentObject(const Plan& plan, const PodPlan& pod) {
  const PlannedWorkload& workload = *pod.seat->workload;
  ordered_json labels;
  labels["app.kubernetes.io/name"] = UniqueNames(UniqueNames::Form::kDnsLabel).Name(workload.name);
  labels["app.kubernetes.io/managed-by"] = "sublet";
  ordered_json match;
  match["sublet/deployment"] = UniqueNames(UniqueNames::Form::kDnsLabel).Name(pod.name);
  labels.update(match);

  ordered_json container;
  container["name"] = labels["app.kubernetes.io/name"];
  container["image"] = ImageOf(workload);
  for (const std::string& word : workload.command) {
    container["command"].push_back(KubernetesLiteral(word));
  }
  ordered_json env = EnvOf(*pod.seat);
  if (!env.empty()) container["env"] = std::move(env);
  if (workload.port) {
    container["ports"] = ordered_json::array({{{"containerPort", *workload.port}}});
  }
  if (workload.ready) AddProbes(*workload.ready, workload.port, container);
  container["resources"] = *pod.resources;

  ordered_json spec = *pod.pod;
  spec["containers"] = ordered_json::array({container});
  if (workload.stop_timeout_s) {
    spec["terminationGracePeriodSeconds"] = static_cast<int>(std::ceil(*workload.stop_timeout_s));
  }

  ordered_json object;
  object["apiVersion"] = "apps/v1";
  object["kind"] = "Deployment";
  object["metadata"]["name"] = pod.name;
  object["metadata"]["labels"] = labels;
  object["metadata"]["annotations"]["sublet/fleet"] = plan.fleet;
  object["metadata"]["annotations"]["sublet/tenant"] = workload.tenant;
  object["spec"]["replicas"] = pod.replicas;
  object["spec"]["selector"]["matchLabels"] = match;
  // Every place on the GPUs is taken: an update must give one up before it takes one.
  object["spec"]["strategy"]["type"] = "RollingUpdate";
  object["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = 0;
  object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = 1;
  object["spec"]["template"]["metadata"]["labels"] = labels;
  object["spec"]["template"]["spec"] = std::move(spec);
  return object;
}

TargetFiles RenderKubernetes(const Deployment& deployment) {
  const std::vector<PluginConfig> configs = PluginConfigs(deployment);
  std::vector<std::string> config_of(deployment.groups.size());
  // A lone configuration is the plugin's default, which needs no label on the node.
  if (configs.size() > 1) {
    for (const PluginConfig& config : configs) {
      for (const std::size_t group : config.groups) config_of[group] = config.name;
    }
  }
  UniqueNames names(UniqueNames::Form::kDnsLabel);
  std::vector<ordered_json> documents;
  for (const Bucket& bucket : BucketsOf(deployment)) {
    ordered_json pod = ordered_json::object();
    pod["nodeSelector"] = SelectorOf(bucket, config_of[bucket.group_index]);
    ordered_json resources;
    resources["limits"][PluginResource(*bucket.seat->partition)] = 1;
    documents.push_back(DeploymentObject(
        *deployment.plan,
        {names.Name(bucket.seat->workload->name), bucket.seat, bucket.replicas, &pod, &resources}));
  }
  return {
      {"deployments.yaml",
       {"The nodes must be set up first: by the targets nvidia-device-plugin and, where the plan "
        "has MIG instances, mig. Pods wait until GPU feature discovery has labelled a node "
        "as sharing the resource in the planned way, or as not sharing it."},
       YamlDocuments(documents)}};
}

}  // namespace sublet
