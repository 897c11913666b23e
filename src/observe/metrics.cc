#include "observe/metrics.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "observe/metric_families.h"

namespace sublet {
namespace {

using Labels = MetricLabels;

std::pair<std::string, std::string> Label(const char* name, std::string_view value) {
  return {name, std::string(value)};
}

// What the node's status is made of, as samples.
class Families : public MetricFamilies {
 public:
  using MetricFamilies::Gauge;
  template <typename T>
  void Gauge(const char* name, const char* help, const Labels& labels,
             const std::optional<T>& value, double factor = 1) {
    if (value) Gauge(name, help, labels, static_cast<double>(*value) * factor);
  }
  void Gauge(const char* name, const char* help, const Labels& labels,
             const std::optional<Bytes>& value) {
    if (value) Gauge(name, help, labels, static_cast<double>(value->count));
  }
};

template <typename Map, typename Key>
auto Find(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? typename Map::mapped_type{} : found->second;
}

void AddDaemon(const NodeStatus& status, const NodeCounters& counters, Families& out) {
  out.Gauge("sublet_build_info", "The program's version.", {Label("version", counters.version)}, 1);
  out.Gauge("sublet_uptime_seconds", "Since the daemon started.", {}, counters.uptime_s);
  out.Gauge("sublet_simulated", "1 where the GPUs are the simulated driver's.", {},
            status.simulated ? 1 : 0);
  out.Counter("sublet_grants_total", "Shares given.", {}, counters.grants);
  out.Counter("sublet_returns_total", "Shares taken back.", {}, counters.returns);
  for (const auto& [code, count] : counters.refusals) {
    out.Counter("sublet_refusals_total", "Requests for a share that were refused.",
                {Label("code", code)}, count);
  }
  out.Summary("sublet_grant_seconds", "From a request for a share to its grant.",
              counters.grant_seconds_sum, counters.grants);
  out.Counter("sublet_unconfined_total", "Processes stopped because no limit held them.", {},
              counters.unconfined);
  out.Counter("sublet_events_total", "Events written to the journal.", {}, counters.events_written);
}

// The names and labels that dcgm-exporter gives to the same figures; memory in MiB.
void AddDcgm(const NodeStatus& status, const GpuStatus& gpu, const GpuCounters& counters,
             Families& out) {
  const std::string index = std::to_string(gpu.index);
  const Labels labels{Label("gpu", index), Label("UUID", gpu.uuid),
                      Label("device", "nvidia" + index), Label("modelName", gpu.product),
                      Label("Hostname", status.hostname)};
  const Bytes free = std::max(gpu.memory - gpu.memory_used, Bytes{});
  out.Gauge("DCGM_FI_DEV_FB_USED", "Memory used (in MiB).", labels,
            static_cast<double>(gpu.memory_used.mib()));
  out.Gauge("DCGM_FI_DEV_FB_FREE", "Memory free (in MiB).", labels,
            static_cast<double>(free.mib()));
  out.Gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilisation (in %).", labels, gpu.utilisation_percent);
  out.Gauge("DCGM_FI_DEV_XID_ERRORS", "The last XID; 0: none.", labels, counters.last_xid);
}

void AddGpu(const NodeStatus& status, const GpuStatus& gpu, const GpuCounters& counters,
            Families& out) {
  const Labels labels{Label("gpu", std::to_string(gpu.index)), Label("uuid", gpu.uuid)};
  Labels info = labels;
  info.push_back(Label("product", gpu.product));
  out.Gauge("sublet_gpu_info", "What the GPU is.", info, 1);
  out.Gauge("sublet_gpu_healthy", "1 where it may get new shares.", labels, gpu.healthy ? 1 : 0);
  out.Gauge("sublet_gpu_mig_enabled", "1 with MIG.", labels, gpu.mig ? 1 : 0);
  out.Gauge("sublet_gpu_memory_bytes", "What it has.", labels, std::optional(gpu.memory));
  out.Gauge("sublet_gpu_memory_used_bytes", "What is used of it, by the driver.", labels,
            std::optional(gpu.memory_used));
  out.Gauge("sublet_gpu_memory_booked_bytes", "What is booked of it by shares.", labels,
            std::optional(gpu.memory_booked));
  out.Gauge("sublet_gpu_used_ratio", "Part of the time in which a kernel ran.", labels,
            gpu.utilisation_percent, 0.01);
  Bytes foreign;
  for (const ForeignProcess& process : gpu.foreign) foreign += process.memory.value_or(Bytes{});
  out.Gauge("sublet_gpu_foreign_processes", "Processes on it that aren't Sublet's.", labels,
            static_cast<double>(gpu.foreign.size()));
  out.Gauge("sublet_gpu_foreign_memory_bytes", "What they use.", labels, std::optional(foreign));
  for (const auto& [xid, count] : counters.xids) {
    Labels with_xid = labels;
    with_xid.push_back(Label("xid", std::to_string(xid)));
    out.Counter("sublet_gpu_xid_errors_total", "XID errors that the driver reported.", with_xid,
                count);
  }
  out.Counter("sublet_gpu_unhealthy_total", "Times that it became unhealthy.", labels,
              counters.unhealthy);
  out.Counter("sublet_gpu_recovered_total", "Times that it recovered.", labels, counters.recovered);
  AddDcgm(status, gpu, counters, out);
}

void AddDomain(const DomainStatus& status, const DomainCounters& counters, Families& out) {
  const Labels labels{Label("domain", status.domain.name), Label("tenant", status.domain.tenant)};
  Labels info = labels;
  info.push_back(Label("uuid", status.domain.gpu_uuid));
  info.push_back(Label("mig_uuid", status.domain.mig_uuid));
  out.Gauge("sublet_domain_info", "Where an MPS server is.", info, 1);
  out.Gauge("sublet_domain_up", "1 where it takes clients.", labels,
            status.state == DomainState::kReady ? 1 : 0);
  out.Gauge("sublet_domain_limits_confirmed", "1 where a probe has met the limits.", labels,
            status.limits_confirmed ? 1 : 0);
  out.Gauge("sublet_domain_clients", "Its clients.", labels, status.clients);
  out.Gauge("sublet_domain_sm_used_ratio", "Part of the time in which a client's kernel ran.",
            labels, status.sm_used_percent, 0.01);
  out.Counter("sublet_domain_restarts_total", "Times that it was started again.", labels,
              std::int64_t{status.restarts});
  out.Counter("sublet_domain_faults_total", "GPU faults that ended its clients.", labels,
              counters.faults);
  out.Counter("sublet_domain_wedges_total", "Times that it didn't answer and was replaced.", labels,
              counters.wedges);
}

bool IsUp(const ShareStatus& status) {
  return status.state == ShareState::kRunning || status.state == ShareState::kReady;
}

void AddShare(const ShareStatus& status, std::int64_t faults, Families& out) {
  const Share& share = status.share;
  const Labels labels{Label("share", share.id), Label("name", share.name),
                      Label("tenant", share.tenant)};
  Labels info = labels;
  info.push_back(Label("mode", SharingModeName(share.mode)));
  info.push_back(Label("uuid", share.gpu_uuid));
  info.push_back(Label("mig_uuid", share.mig_uuid));
  info.push_back(Label("domain", share.domain));
  out.Gauge("sublet_share_info", "Where a share is, and how.", info, 1);
  out.Gauge("sublet_share_up", "1 where its process runs, and is ready if it has a probe.", labels,
            IsUp(status) ? 1 : 0);
  out.Gauge("sublet_share_uptime_seconds", "Since its process started.", labels, status.uptime_s);
  out.Gauge("sublet_share_memory_booked_bytes", "What is booked for it.", labels,
            std::optional(share.memory));
  out.Gauge("sublet_share_memory_limit_bytes", "What each of its processes may use.", labels,
            share.memory_limit);
  out.Gauge("sublet_share_memory_used_bytes", "What its processes use, by the driver.", labels,
            status.memory_used);
  out.Gauge("sublet_share_sm_limit_ratio", "Cap on its part of the SMs.", labels, share.sm_percent,
            0.01);
  out.Gauge("sublet_share_sm_used_ratio", "Part of the time in which its kernels ran.", labels,
            status.sm_used_percent, 0.01);
  out.Counter("sublet_share_restarts_total", "Times that its process was started again.", labels,
              std::int64_t{status.restarts});
  out.Counter("sublet_share_faults_total", "GPU faults that ended its processes.", labels, faults);
}

// Sums over a tenant's shares, those that aren't listed too.
struct TenantSums {
  int shares = 0;
  int up = 0;
  Bytes booked;
  Bytes used;
  std::int64_t restarts = 0;
  std::int64_t faults = 0;
};

void AddTenant(const std::string& tenant, const TenantSums& sums, Families& out) {
  const Labels labels{Label("tenant", tenant)};
  out.Gauge("sublet_tenant_shares", "Shares that a tenant has.", labels, sums.shares);
  out.Gauge("sublet_tenant_shares_up", "Those that run.", labels, sums.up);
  out.Gauge("sublet_tenant_memory_booked_bytes", "What is booked for them.", labels,
            std::optional(sums.booked));
  out.Gauge("sublet_tenant_memory_used_bytes", "What they use, as far as the driver tells.", labels,
            std::optional(sums.used));
  out.Gauge("sublet_tenant_restarts", "Restarts of the shares that there are.", labels,
            static_cast<double>(sums.restarts));
  out.Gauge("sublet_tenant_faults", "Faults of the shares that there are.", labels,
            static_cast<double>(sums.faults));
}

}  // namespace

std::string MetricsText(const NodeStatus& status, const NodeCounters& counters) {
  Families out;
  AddDaemon(status, counters, out);
  for (const GpuStatus& gpu : status.gpus) {
    AddGpu(status, gpu, Find(counters.gpus, gpu.uuid), out);
  }
  for (const DomainStatus& domain : status.domains) {
    AddDomain(domain, Find(counters.domains, domain.domain.name), out);
  }
  std::map<std::string, TenantSums> tenants;
  std::size_t listed = 0;
  for (const ShareStatus& share : status.shares) {
    const std::int64_t faults = Find(counters.share_faults, share.share.id);
    if (listed < kMetricsSharesMax) {
      AddShare(share, faults, out);
      ++listed;
    }
    TenantSums& sums = tenants[share.share.tenant];
    ++sums.shares;
    sums.up += IsUp(share) ? 1 : 0;
    sums.booked += share.share.memory;
    sums.used += share.memory_used.value_or(Bytes{});
    sums.restarts += share.restarts;
    sums.faults += faults;
  }
  for (const auto& [tenant, sums] : tenants) AddTenant(tenant, sums, out);
  out.Gauge("sublet_shares_omitted", "Shares without series of their own, past a limit.", {},
            static_cast<double>(status.shares.size() - listed));
  return out.Text();
}

}  // namespace sublet
