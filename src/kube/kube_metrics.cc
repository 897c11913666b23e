#include "kube/kube_metrics.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "kube/mps_pool.h"
#include "observe/metric_families.h"

namespace sublet {
namespace {

struct ThrottleReason {
  unsigned long long bit;
  const char* name;
};
constexpr std::array kThrottleReasons = {
    ThrottleReason{nvml::kClocksSwPowerCap, "power-cap"},
    ThrottleReason{nvml::kClocksHwSlowdown, "hardware-slowdown"},
    ThrottleReason{nvml::kClocksSyncBoost, "sync-boost"},
    ThrottleReason{nvml::kClocksSwThermalSlowdown, "thermal-software"},
    ThrottleReason{nvml::kClocksHwThermalSlowdown, "thermal-hardware"},
    ThrottleReason{nvml::kClocksHwPowerBrake, "power-brake"},
};

class KubeFamilies {
 public:
  KubeFamilies(const PluginState& state, const PodSight* sight, double age_s, int late)
      : state_(state), sight_(sight), age_s_(age_s), late_(late) {}

  std::string Text() {
    AddPlugin();
    AddHealth();
    AddServers();
    if (sight_ == nullptr || !state_.inventory) return out_.Text();
    const PodUsage usage = JoinPodUsage({.inventory = *state_.inventory,
                                         .resources = state_.resources,
                                         .pods = sight_->pods ? &*sight_->pods : nullptr,
                                         .usage = sight_->usage,
                                         .places = sight_->places,
                                         .names = sight_->names});
    for (const PodDeviceUse& row : usage.rows) AddRow(row);
    if (sight_->pods) {
      for (const PodDevices& pod : *sight_->pods) AddServerOf(pod);
    }
    for (const UnattributedUse& one : usage.unattributed) AddUnattributed(one);
    for (const GpuUsage& gpu : sight_->usage.gpus) AddGpu(gpu, usage);
    return out_.Text();
  }

 private:
  void AddPlugin() {
    out_.Gauge("sublet_build_info", "The program's version.", {{"version", state_.version}}, 1);
    out_.Counter("sublet_kube_late_looks_total",
                 "Looks at the node that weren't over in time, so that an older one was shown.", {},
                 std::int64_t{late_});
    const bool driver = sight_ != nullptr && sight_->driver_problem.empty();
    const bool kubelet = sight_ != nullptr && sight_->kubelet_problem.empty();
    out_.Gauge("sublet_kube_driver_up", "1 where the driver answered.", {}, driver ? 1 : 0);
    out_.Gauge("sublet_kube_pod_resources_up", "1 where kubelet told which pod has which device.",
               {}, kubelet ? 1 : 0);
    if (sight_ == nullptr) return;
    out_.Gauge("sublet_kube_look_seconds", "What the look took that is shown.", {},
               sight_->seconds);
    out_.Gauge("sublet_kube_look_age_seconds", "How old it is.", {}, age_s_);
  }

  // Of what is offered; a GPU that is cut stands with its MIG devices.
  void AddHealth() {
    for (const AdvertisedResource& resource : state_.resources) {
      for (const AdvertisedDevice& device : resource.devices) {
        const MetricLabels labels{{"resource", resource.name},
                                  {"gpu", std::to_string(device.gpu_index)},
                                  {"UUID", device.gpu_uuid},
                                  {"device", device.uuid}};
        const bool healthy =
            !state_.unhealthy.contains(device.uuid) && !state_.unhealthy.contains(device.gpu_uuid);
        out_.Gauge("sublet_kube_device_healthy", "1 where the device has no fault.", labels,
                   healthy ? 1 : 0);
        const bool ready = healthy && !state_.waiting.contains(device.uuid);
        out_.Gauge("sublet_kube_device_ready",
                   "1 where it is handed out: healthy, and its MPS server, if any, ready.", labels,
                   ready ? 1 : 0);
        out_.Gauge("sublet_kube_device_replicas", "What is offered of it.", labels,
                   device.replicas);
      }
    }
  }

  void AddServers() {
    for (const DomainStatus& server : state_.servers) {
      const MetricLabels labels{{"server", server.domain.name},
                                {"tenant", server.domain.tenant},
                                {"UUID", server.domain.gpu_uuid},
                                {"device", server.domain.device_uuid()}};
      out_.Gauge("sublet_kube_mps_server_up", "1 where the MPS server takes clients.", labels,
                 server.state == DomainState::kReady ? 1 : 0);
      out_.Gauge("sublet_kube_mps_server_clients", "Its clients.", labels, server.clients);
      out_.Counter("sublet_kube_mps_server_restarts_total", "Times that it was started again.",
                   labels, std::int64_t{server.restarts});
    }
  }

  // Devices of other plugins have no server here.
  void AddServerOf(const PodDevices& pod) {
    const auto claim = state_.claims.find(ClaimName(pod.resource, pod.ids));
    std::set<std::string_view> devices;
    for (const std::string& id : pod.ids) devices.insert(PhysicalId(id));
    for (const DomainStatus& server : state_.servers) {
      const std::string device = server.domain.device_uuid();
      const std::string& name = claim == state_.claims.end() ? device : claim->second;
      if (!devices.contains(device) || server.domain.name != name) continue;
      out_.Gauge("sublet_kube_mps_client_info",
                 "Which MPS server the container's programs are clients of.",
                 {{"namespace", pod.pod_namespace},
                  {"pod", pod.pod},
                  {"container", pod.container},
                  {"server", name},
                  {"UUID", server.domain.gpu_uuid},
                  {"device", device}},
                 1);
    }
  }

  void AddRow(const PodDeviceUse& row) {
    const MetricLabels labels{
        {"namespace", row.pod_namespace}, {"pod", row.pod},
        {"container", row.container},     {"gpu", std::to_string(row.gpu_index)},
        {"UUID", row.gpu_uuid},           {"device", row.device}};
    if (row.memory_used) {
      out_.Gauge("sublet_kube_memory_used_bytes",
                 "What the container's processes use of the device.", labels,
                 static_cast<double>(row.memory_used->count));
    }
    if (row.limit.memory) {
      out_.Gauge("sublet_kube_memory_limit_bytes",
                 "What it may use; under MPS each of its processes.", labels,
                 static_cast<double>(row.limit.memory->count));
    }
    if (row.sm_percent) {
      out_.Gauge("sublet_kube_sm_used_ratio", "Part of the time in which a kernel of it ran.",
                 labels, *row.sm_percent / 100);
    }
    if (row.limit.sm_percent) {
      out_.Gauge("sublet_kube_sm_limit_ratio", "Part of the device's SMs that it may use.", labels,
                 *row.limit.sm_percent / 100.0);
    }
    out_.Gauge("sublet_kube_processes", "Its processes on the device.", labels, row.processes);
  }

  void AddUnattributed(const UnattributedUse& one) {
    const MetricLabels labels{{"gpu", std::to_string(one.gpu_index)},
                              {"UUID", one.gpu_uuid},
                              {"reason", std::string(one.reason)}};
    out_.Gauge("sublet_kube_unattributed_memory_bytes",
               "What processes use that are no container's with this device.", labels,
               static_cast<double>(one.memory.count));
    out_.Gauge("sublet_kube_unattributed_processes", "How many they are.", labels, one.processes);
  }

  // The names and labels that dcgm-exporter gives to the same figures; memory in MiB.
  MetricLabels DcgmLabels(const GpuUsage& gpu, const PodUsage& usage) const {
    const std::string index = std::to_string(gpu.index);
    const Gpu* const known = state_.inventory->FindGpu(gpu.uuid);
    const auto holder = usage.sole_holders.find(gpu.uuid);
    const bool sole = holder != usage.sole_holders.end();
    return {{"gpu", index},
            {"UUID", gpu.uuid},
            {"device", "nvidia" + index},
            {"modelName", known == nullptr ? "" : known->product},
            {"Hostname", state_.hostname},
            {"namespace", sole ? holder->second.pod_namespace : ""},
            {"pod", sole ? holder->second.pod : ""},
            {"container", sole ? holder->second.container : ""}};
  }

  void AddGpu(const GpuUsage& gpu, const PodUsage& usage) {
    if (!gpu.problem.empty()) return;
    const MetricLabels labels = DcgmLabels(gpu, usage);
    const auto add = [&](const char* name, const char* help, const auto& value) {
      if (value) out_.Gauge(name, help, labels, static_cast<double>(*value));
    };
    const Bytes free = std::max(gpu.memory - gpu.memory_used, Bytes{});
    out_.Gauge("DCGM_FI_DEV_FB_USED", "Memory used (in MiB).", labels,
               static_cast<double>(gpu.memory_used.mib()));
    out_.Gauge("DCGM_FI_DEV_FB_FREE", "Memory free (in MiB).", labels,
               static_cast<double>(free.mib()));
    add("DCGM_FI_DEV_GPU_UTIL", "GPU utilisation (in %).", gpu.utilisation_percent);
    const auto xid = state_.last_xid.find(gpu.uuid);
    out_.Gauge("DCGM_FI_DEV_XID_ERRORS", "The last XID; 0: none.", labels,
               xid == state_.last_xid.end() ? 0 : xid->second);
    const auto found = sight_->meters.find(gpu.uuid);
    if (found == sight_->meters.end()) return;
    const GpuMeters& meters = found->second;
    add("DCGM_FI_DEV_SM_CLOCK", "SM clock (in MHz).", meters.sm_clock_mhz);
    add("DCGM_FI_DEV_POWER_USAGE", "Power (in W).", meters.power_watts);
    add("DCGM_FI_DEV_GPU_TEMP", "Temperature (in C).", meters.temperature);
    if (!meters.throttle_reasons) return;
    for (const ThrottleReason& reason : kThrottleReasons) {
      out_.Gauge("sublet_kube_gpu_throttled", "1 where the GPU's clocks are held down by that.",
                 {{"gpu", std::to_string(gpu.index)}, {"UUID", gpu.uuid}, {"reason", reason.name}},
                 (*meters.throttle_reasons & reason.bit) != 0 ? 1 : 0);
    }
  }

  const PluginState& state_;
  const PodSight* const sight_;
  const double age_s_;
  const int late_;
  MetricFamilies out_;
};

}  // namespace

std::string KubeMetricsText(const PluginState& state, const PodSight* sight, double age_s,
                            int late) {
  return KubeFamilies(state, sight, age_s, late).Text();
}

}  // namespace sublet
