#include "node/usage.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>
#include <utility>

#include "inventory/nvml_processes.h"

namespace sublet {
namespace {

using Key = std::pair<int, int>;  // Pid, and GPU instance or -1.

// False where the driver doesn't tell.
bool AddList(ProcessLister lister, nvml::Device device, const auto& mark,
             std::map<Key, ProcessUsage>& processes) {
  const auto list = ListProcesses(lister, device);
  for (const nvml::ProcessInfo& info : list.value_or(std::vector<nvml::ProcessInfo>())) {
    const bool instance = info.gpu_instance_id != nvml::kNoInstance;
    const int gpu_instance = instance ? static_cast<int>(info.gpu_instance_id) : -1;
    ProcessUsage& process = processes[{static_cast<int>(info.pid), gpu_instance}];
    process.pid = static_cast<int>(info.pid);
    if (instance) process.gpu_instance = gpu_instance;
    if (info.used_gpu_memory != nvml::kValueNotAvailable) {
      process.memory = Bytes{static_cast<std::int64_t>(info.used_gpu_memory)};
    }
    mark(process);
  }
  return list.has_value();
}

struct SmFigures {
  bool told = false;                 // By pid below; who isn't there did nothing.
  std::map<int, double> sm_percent;  // Means over the samples.
};

// The driver's samples since the last look, which `seen_us` remembers.
SmFigures ReadSmFigures(const nvml::Api& api, nvml::Device device, unsigned long long& seen_us) {
  SmFigures figures;
  if (api.device_process_utilization == nullptr) return figures;
  const bool first = seen_us == 0;
  std::vector<nvml::ProcessUtilizationSample> samples(128);
  nvml::Return code = nvml::kInsufficientSize;
  for (int attempt = 0; attempt < 3 && code == nvml::kInsufficientSize; ++attempt) {
    auto count = static_cast<unsigned>(samples.size());
    code = api.device_process_utilization(device, samples.data(), &count, seen_us);
    // With too little room `count` is what it takes.
    samples.resize(code == nvml::kInsufficientSize ? count + 32 : count);
  }
  if (code == nvml::kNotFound) {  // Nobody did anything.
    figures.told = !first;
    return figures;
  }
  if (code != nvml::kSuccess) return figures;
  std::map<int, int> counts;
  for (const nvml::ProcessUtilizationSample& sample : samples) {
    if (sample.time_us <= seen_us && !first) continue;
    figures.sm_percent[static_cast<int>(sample.pid)] += std::min(sample.sm, 100u);
    ++counts[static_cast<int>(sample.pid)];
  }
  for (const nvml::ProcessUtilizationSample& sample : samples) {
    seen_us = std::max(seen_us, sample.time_us);
  }
  for (auto& [pid, percent] : figures.sm_percent) percent /= counts[pid];
  figures.told = !first;
  if (first) figures.sm_percent.clear();  // Of long ago, and of processes that are gone.
  return figures;
}

void ReadProcesses(const nvml::Api& api, nvml::Device device, unsigned long long& seen_us,
                   GpuUsage& gpu) {
  std::map<Key, ProcessUsage> processes;
  AddList(
      api.device_graphics_processes, device, [](ProcessUsage& one) { one.graphics = true; },
      processes);
  gpu.processes_known = AddList(
      api.device_compute_processes, device, [](ProcessUsage& one) { one.graphics = false; },
      processes);
  gpu.clients_known = AddList(
      api.device_mps_processes, device,
      [](ProcessUsage& one) {
        one.graphics = false;
        one.mps_client = true;
      },
      processes);
  const SmFigures figures = ReadSmFigures(api, device, seen_us);
  for (auto& [key, process] : processes) {
    const auto figure = figures.sm_percent.find(process.pid);
    if (figure != figures.sm_percent.end()) {
      process.sm_percent = figure->second;
    } else if (figures.told && !process.mps_client) {
      process.sm_percent = 0;
    }
    gpu.processes.push_back(std::move(process));
  }
}

// Everything about one GPU; its problem where it doesn't answer.
nvml::Return ReadGpu(const nvml::Api& api, unsigned index, UsageCursor& cursor, GpuUsage& gpu) {
  nvml::Device device = nullptr;
  if (const auto code = api.device_by_index(index, &device); code != nvml::kSuccess) return code;
  std::array<char, nvml::kUuidBufferSize> uuid{};
  if (const auto code = api.device_uuid(device, uuid.data(), uuid.size()); code != nvml::kSuccess) {
    return code;
  }
  gpu.uuid = uuid.data();
  nvml::Memory memory{};
  if (const auto code = api.device_memory(device, &memory); code != nvml::kSuccess) return code;
  gpu.memory = Bytes{static_cast<std::int64_t>(memory.total)};
  gpu.memory_used = Bytes{static_cast<std::int64_t>(memory.used)};
  nvml::Utilization utilisation{};
  if (api.device_utilization != nullptr &&
      api.device_utilization(device, &utilisation) == nvml::kSuccess) {
    gpu.utilisation_percent = static_cast<int>(utilisation.gpu);
  }
  ReadProcesses(api, device, cursor.seen_us[gpu.uuid], gpu);
  return nvml::kSuccess;
}

template <typename T>
void AddTo(std::optional<T>& sum, const std::optional<T>& value) {
  if (!value) return;
  T total = sum.value_or(T{});
  total += *value;
  sum = total;
}

// Under MPS only the server has a figure. It is a share's where that is alone on the server.
void AttributeDomains(const std::vector<Share>& shares, NodeUsage& usage) {
  std::map<std::string, std::vector<std::string>> users;  // Of each domain: shares with processes.
  for (const Share& share : shares) {
    const auto used = usage.shares.find(share.id);
    if (!share.domain.empty() && used != usage.shares.end() && !used->second.pids.empty()) {
      users[share.domain].push_back(share.id);
    }
  }
  for (const auto& [domain, ids] : users) {
    const auto percent = usage.domain_sm_percent.find(domain);
    if (percent == usage.domain_sm_percent.end() || ids.size() != 1) continue;
    usage.shares[ids.front()].sm_used_percent = percent->second;
  }
}

// Shares without a process on their GPU use nothing of it, if the driver has told them all.
void AddIdle(const UsageSample& sample, const std::vector<Share>& shares, NodeUsage& usage) {
  for (const Share& share : shares) {
    const auto gpu = std::ranges::find(sample.gpus, share.gpu_uuid, &GpuUsage::uuid);
    const bool known = gpu != sample.gpus.end() && gpu->problem.empty() && gpu->processes_known;
    if (!known) continue;
    const auto [at, is_new] = usage.shares.try_emplace(share.id);
    if (!is_new) continue;
    at->second.memory_used = Bytes{};
    at->second.sm_used_percent = 0;
  }
}

}  // namespace

Result<UsageSample> SampleUsage(const nvml::Api& api, UsageCursor& cursor) {
  unsigned count = 0;
  RETURN_IF_ERROR(FromNvml(api.device_count(&count), "counting GPUs"));
  UsageSample sample;
  for (unsigned i = 0; i < count; ++i) {
    GpuUsage gpu;
    gpu.index = static_cast<int>(i);
    if (const nvml::Return code = ReadGpu(api, i, cursor, gpu); code != nvml::kSuccess) {
      gpu.problem = fmt::format("{} ({})", nvml::ReturnName(code), static_cast<int>(code));
    }
    sample.gpus.push_back(std::move(gpu));
  }
  return sample;
}

NodeUsage AttributeUsage(const UsageSample& sample, const ProcessOwners& owners,
                         const std::vector<Share>& shares) {
  NodeUsage usage;
  static const ProcessOwner kNobody;
  for (const GpuUsage& gpu : sample.gpus) {
    std::map<int, ForeignProcess> foreign;
    for (const ProcessUsage& process : gpu.processes) {
      const auto found = owners.find(process.pid);
      const ProcessOwner& owner = found == owners.end() ? kNobody : found->second;
      switch (owner.kind) {
        case ProcessOwner::Kind::kShare: {
          ShareUsage& share = usage.shares[owner.id];
          AddTo(share.memory_used, process.memory);
          AddTo(share.sm_used_percent, process.sm_percent);
          share.pids.push_back(process.pid);
          break;
        }
        case ProcessOwner::Kind::kOwn:
          if (!owner.id.empty() && process.sm_percent) {
            usage.domain_sm_percent[owner.id] += *process.sm_percent;
          }
          break;
        case ProcessOwner::Kind::kForeign: {
          ForeignProcess& one = foreign[process.pid];
          one.pid = process.pid;
          one.name = owner.name;
          AddTo(one.memory, process.memory);
          break;
        }
      }
    }
    for (auto& [pid, one] : foreign) usage.foreign[gpu.uuid].push_back(std::move(one));
  }
  AddIdle(sample, shares, usage);
  for (auto& [id, share] : usage.shares) {
    if (share.sm_used_percent) share.sm_used_percent = std::min(*share.sm_used_percent, 100.0);
    std::ranges::sort(share.pids);
    share.pids.erase(std::ranges::unique(share.pids).begin(), share.pids.end());
  }
  for (auto& [name, percent] : usage.domain_sm_percent) percent = std::min(percent, 100.0);
  AttributeDomains(shares, usage);
  return usage;
}

std::vector<Unconfined> UnconfinedSearch::Find(const UsageSample& sample,
                                               const ProcessOwners& owners,
                                               const std::vector<Share>& shares,
                                               std::int64_t now_ns) {
  std::set<std::string> confined;  // Ids of the shares that are a server's clients.
  for (const Share& share : shares) {
    if (!share.domain.empty()) confined.insert(share.id);
  }
  std::map<std::pair<int, std::int64_t>, std::int64_t> seen;
  std::vector<Unconfined> found;
  for (const GpuUsage& gpu : sample.gpus) {
    if (!gpu.clients_known) continue;
    for (const ProcessUsage& process : gpu.processes) {
      const auto owner = owners.find(process.pid);
      if (process.mps_client || process.graphics || owner == owners.end()) continue;
      if (owner->second.kind != ProcessOwner::Kind::kShare ||
          !confined.contains(owner->second.id)) {
        continue;
      }
      const std::pair key{process.pid, owner->second.started};
      const auto before = first_seen_ns_.find(key);
      const std::int64_t first_ns = before == first_seen_ns_.end() ? now_ns : before->second;
      seen.emplace(key, first_ns);
      const double seconds = static_cast<double>(now_ns - first_ns) / 1e9;
      if (before == first_seen_ns_.end() || seconds < grace_s_) continue;
      found.push_back({process.pid, owner->second.started, owner->second.id, gpu.uuid});
    }
  }
  first_seen_ns_ = std::move(seen);
  return found;
}

}  // namespace sublet
