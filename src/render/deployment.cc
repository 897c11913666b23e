#include "render/deployment.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/share.h"
#include "render/quoting.h"

namespace sublet {
namespace {

// A path below /run holds a server's name and must stay within the 107 characters that a socket's
// address has: "/run/sublet/" + name + "/pipe/control_privileged".
constexpr std::size_t kNameLengthMax = 63;
constexpr std::size_t kHostNameLengthMax = 253;  // DNS.

bool IsLetterOrDigit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

Status CheckName(std::string_view name, std::string_view what, std::string_view extra,
                 std::size_t length_max = kNameLengthMax) {
  const bool fits = !name.empty() && name.size() <= length_max && IsLetterOrDigit(name.front()) &&
                    std::all_of(name.begin(), name.end(), [&](char c) {
                      return IsLetterOrDigit(c) || extra.find(c) != std::string_view::npos;
                    });
  if (fits) return {};
  RETURN_IF_ERROR(CheckText(name, what));
  return Fail(ErrorCode::kInvalid,
              fmt::format("{}: not a name that files and units can have: '{}'", what,
                          name.substr(0, kNameLengthMax)),
              fmt::format("letters, digits and '{}', beginning with a letter or digit, at most {}",
                          extra, length_max));
}

Status CheckVariable(const std::string& name, const std::string& value, const std::string& what) {
  const bool valid =
      !name.empty() && !(name.front() >= '0' && name.front() <= '9') &&
      std::all_of(name.begin(), name.end(), [](char c) { return IsLetterOrDigit(c) || c == '_'; });
  if (!valid) {
    RETURN_IF_ERROR(CheckText(name, what + ": env"));
    return Fail(ErrorCode::kInvalid, fmt::format("{}: not an environment variable's name: '{}'",
                                                 what, name.substr(0, kNameLengthMax)));
  }
  if (IsShareVariable(name)) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("{}: sets a variable that Sublet must set itself: {}", what, name),
                "remove it from the workload's env");
  }
  return CheckText(value, fmt::format("{}: env {}", what, name));
}

Status CheckWorkload(const PlannedWorkload& workload) {
  RETURN_IF_ERROR(CheckName(workload.name, "workload", "-._"));
  const std::string what = fmt::format("workload {}", workload.name);
  RETURN_IF_ERROR(CheckText(workload.tenant, what + ": tenant"));
  RETURN_IF_ERROR(CheckText(workload.image, what + ": image"));
  for (const std::string& word : workload.command) {
    RETURN_IF_ERROR(CheckText(word, what + ": command"));
  }
  if (!workload.command.empty()) {
    const std::string& program = workload.command.front();
    // env(1) would take such a word for a variable.
    if (program.empty() || program.find('=') != std::string::npos || program.front() == '-') {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{}: command does not begin with a program: '{}'", what,
                              program.substr(0, kNameLengthMax)));
    }
  }
  for (const auto& [name, value] : workload.env) {
    RETURN_IF_ERROR(CheckVariable(name, value, what));
  }
  return {};
}

Status CheckReplica(const PlannedPartition& partition, const PlannedReplica& replica) {
  RETURN_IF_ERROR(CheckName(replica.id, "replica", "-._/"));
  RETURN_IF_ERROR(CheckText(replica.reason, fmt::format("replica {}: reason", replica.id)));
  const auto bad = [&](std::string_view what) {
    return Fail(ErrorCode::kInvalid, fmt::format("replica {}: {}", replica.id, what));
  };
  if (replica.sm_percent && (*replica.sm_percent < 1 || *replica.sm_percent > 100)) {
    return bad(fmt::format("sm_percent is not in 1..100: {}", *replica.sm_percent));
  }
  if (replica.memory_limit && replica.memory_limit->count <= 0) {
    return bad(fmt::format("memory limit is not positive: {} bytes", replica.memory_limit->count));
  }
  if (replica.memory.count < 0 || replica.context.count < 0) return bad("memory is negative");
  const bool in_server = replica.server && *replica.server >= 0 &&
                         static_cast<std::size_t>(*replica.server) < partition.servers.size();
  if (partition.mode == SharingMode::kMps && !in_server) {
    return bad(fmt::format("no MPS server of {} is named for it", partition.name));
  }
  if (partition.mode != SharingMode::kMps && replica.server) {
    return bad(fmt::format("has an MPS server, but {} is not shared by MPS", partition.name));
  }
  return {};
}

Status CheckPartition(const PlannedGpu& gpu, const PlannedPartition& partition) {
  RETURN_IF_ERROR(CheckName(partition.name, "partition", "-._+"));
  const auto bad = [&](std::string_view what) {
    return Fail(ErrorCode::kInvalid, fmt::format("partition {}: {}", partition.name, what));
  };
  if (gpu.mig != !partition.profile.empty()) return bad("MIG mode and MIG profile don't agree");
  if (gpu.mig) {
    RETURN_IF_ERROR(CheckName(partition.profile, "MIG profile", "-.+"));
    if (partition.profile_id < 0 || partition.start < 0 || partition.size < 1) {
      return bad("its MIG placement is out of range");
    }
  }
  switch (partition.mode) {
    case SharingMode::kStreams:
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("partition {}: shared by streams, which needs one process that loads "
                              "all of its models",
                              partition.name));
    case SharingMode::kMig:
      return bad("its mode is mig, which is a way to cut a GPU, not to share a partition");
    case SharingMode::kExclusive:
      if (partition.replicas.size() > 1) return bad("exclusive, with several replicas");
      break;
    case SharingMode::kTimeSlicing:
    case SharingMode::kMps:
      break;
  }
  if (partition.mode != SharingMode::kMps && !partition.servers.empty()) {
    return bad("has MPS servers, but is not shared by MPS");
  }
  for (const PlannedServer& server : partition.servers) {
    RETURN_IF_ERROR(CheckName(server.name, "MPS server", "-._+"));
    RETURN_IF_ERROR(CheckText(server.tenant, "MPS server's tenant"));
  }
  for (const PlannedReplica& replica : partition.replicas) {
    RETURN_IF_ERROR(CheckReplica(partition, replica));
  }
  return {};
}

Status CheckGpu(const PlannedGpu& gpu) {
  RETURN_IF_ERROR(CheckName(gpu.name, "GPU", "-._"));
  RETURN_IF_ERROR(CheckName(gpu.board, "board", "-._"));
  if (!gpu.node.empty()) RETURN_IF_ERROR(CheckName(gpu.node, "node", "-.", kHostNameLengthMax));
  if (!gpu.uuid.empty()) RETURN_IF_ERROR(CheckName(gpu.uuid, "GPU's UUID", "-"));
  if (gpu.memory.count < 0) {
    return Fail(ErrorCode::kInvalid, fmt::format("GPU {}: memory is negative", gpu.name));
  }
  if (!gpu.mig && gpu.partitions.size() > 1) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("GPU {}: several partitions without MIG mode", gpu.name));
  }
  for (const PlannedPartition& partition : gpu.partitions) {
    RETURN_IF_ERROR(CheckPartition(gpu, partition));
  }
  return {};
}

// Names that become files, folders and sections; each must mean one thing.
Status CheckUnique(const Plan& plan) {
  std::set<std::string> gpus, partitions, servers, replicas;
  const auto add = [](std::set<std::string>& names, const std::string& name,
                      std::string_view what) -> Status {
    if (names.insert(name).second) return {};
    return Fail(ErrorCode::kInvalid, fmt::format("two {} of one name: {}", what, name));
  };
  for (const PlannedGpu& gpu : plan.gpus) {
    RETURN_IF_ERROR(add(gpus, gpu.name, "GPUs"));
    for (const PlannedPartition& partition : gpu.partitions) {
      RETURN_IF_ERROR(add(partitions, partition.name, "partitions"));
      for (const PlannedServer& server : partition.servers) {
        RETURN_IF_ERROR(add(servers, server.name, "MPS servers"));
      }
      for (const PlannedReplica& replica : partition.replicas) {
        RETURN_IF_ERROR(add(replicas, replica.id, "replicas"));
      }
    }
  }
  return {};
}

// Equal for GPUs that want the same of a node.
std::string ConfigurationOf(const PlannedGpu& gpu) {
  std::string out = fmt::format("{} {}\n", gpu.board, gpu.mig);
  std::vector<std::string> partitions;
  for (const PlannedPartition& partition : gpu.partitions) {
    std::vector<std::string> replicas;
    for (const PlannedReplica& replica : partition.replicas) {
      replicas.push_back(fmt::format("{} {} {} {}", replica.workload,
                                     MpsMemoryLimit(replica).value_or(Bytes{}).count,
                                     replica.sm_percent.value_or(0), replica.server.value_or(-1)));
    }
    std::sort(replicas.begin(), replicas.end());
    partitions.push_back(fmt::format("{} {} {} {}\n", partition.profile,
                                     SharingModeName(partition.mode), partition.servers.size(),
                                     fmt::join(replicas, ",")));
  }
  std::sort(partitions.begin(), partitions.end());
  return out + fmt::format("{}", fmt::join(partitions, ""));
}

Status AddSeats(const std::map<std::string, const PlannedWorkload*>& workloads,
                const PlannedGpu& gpu, std::vector<Seat>& seats) {
  for (const PlannedPartition& partition : gpu.partitions) {
    for (const PlannedReplica& replica : partition.replicas) {
      const auto workload = workloads.find(replica.workload);
      if (workload == workloads.end()) {
        return Fail(ErrorCode::kInvalid, fmt::format("replica {}: no such workload in the plan: {}",
                                                     replica.id, replica.workload.substr(0, 64)));
      }
      const PlannedServer* server =
          replica.server ? &partition.servers[static_cast<std::size_t>(*replica.server)] : nullptr;
      seats.push_back({&gpu, &partition, server, &replica, workload->second});
    }
  }
  return {};
}

}  // namespace

Result<Deployment> Arrange(const Plan& plan) {
  RETURN_IF_ERROR(CheckText(plan.fleet, "fleet"));
  std::map<std::string, const PlannedWorkload*> workloads;
  for (const PlannedWorkload& workload : plan.workloads) {
    RETURN_IF_ERROR(CheckWorkload(workload));
    workloads.emplace(workload.name, &workload);
  }
  for (const PlannedGpu& gpu : plan.gpus) RETURN_IF_ERROR(CheckGpu(gpu));
  RETURN_IF_ERROR(CheckUnique(plan));

  Deployment deployment;
  deployment.plan = &plan;
  std::map<std::string, std::size_t> group_of;
  for (const PlannedGpu& gpu : plan.gpus) {
    // A host name has no blank, a configuration does, so that the two can't be mistaken.
    const std::string key = gpu.node.empty() ? ConfigurationOf(gpu) : gpu.node;
    const auto [found, added] = group_of.emplace(key, deployment.groups.size());
    if (added) deployment.groups.push_back({gpu.node, {}, {}});
    NodeGroup& group = deployment.groups[found->second];
    group.gpus.push_back(&gpu);
    RETURN_IF_ERROR(AddSeats(workloads, gpu, group.seats));
  }
  return deployment;
}

std::vector<NodeGroup> OneMachine(const Deployment& deployment) {
  std::vector<NodeGroup> machines;
  for (const NodeGroup& group : deployment.groups) {
    auto machine = std::find_if(machines.begin(), machines.end(),
                                [&](const NodeGroup& other) { return other.node == group.node; });
    if (machine == machines.end()) machine = machines.insert(machine, {group.node, {}, {}});
    machine->gpus.insert(machine->gpus.end(), group.gpus.begin(), group.gpus.end());
    machine->seats.insert(machine->seats.end(), group.seats.begin(), group.seats.end());
  }
  return machines;
}

std::optional<Bytes> MpsMemoryLimit(const PlannedReplica& replica) {
  if (!replica.memory_limit) return std::nullopt;
  return *replica.memory_limit + replica.context;
}

ServerDefaults DefaultsOf(const PlannedPartition& partition, std::optional<int> server) {
  ServerDefaults defaults;
  bool all_memory = true;
  bool all_sm = true;
  for (const PlannedReplica& replica : partition.replicas) {
    if (server && replica.server != server) continue;
    const std::optional<Bytes> memory = MpsMemoryLimit(replica);
    all_memory = all_memory && memory.has_value();
    all_sm = all_sm && replica.sm_percent.has_value();
    defaults.memory_limit = std::max(defaults.memory_limit, memory);
    defaults.sm_percent = std::max(defaults.sm_percent, replica.sm_percent);
  }
  if (!all_memory) defaults.memory_limit.reset();
  if (!all_sm) defaults.sm_percent.reset();
  return defaults;
}

std::string PluginResource(const PlannedPartition& partition) {
  if (partition.profile.empty()) return "nvidia.com/gpu";
  std::string profile = partition.profile;
  std::replace(profile.begin(), profile.end(), '+', '.');
  return "nvidia.com/mig-" + profile;
}

std::string UniqueNames::Name(std::string_view wanted) {
  const std::size_t length_max = form_ == Form::kDnsLabel ? 63 : 253;
  std::string name;
  for (char c : wanted) {
    if (form_ != Form::kFile && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool kept = IsLetterOrDigit(c) || c == '-' || (c == '.' && form_ != Form::kDnsLabel) ||
                      (c == '_' && form_ == Form::kFile);
    c = kept ? c : '-';
    // Each part of a DNS name begins and ends with a letter or digit.
    if (form_ == Form::kDnsSubdomain && !name.empty() && !IsLetterOrDigit(c)) {
      if (name.back() == '.') continue;
      if (name.back() == '-' && c == '.') c = '-';
    }
    name += c;
  }
  // Both ends must be a letter or digit in DNS names, and a number may have to be added.
  const auto trim = [&] {
    while (!name.empty() && !IsLetterOrDigit(name.back())) name.pop_back();
    while (!name.empty() && !IsLetterOrDigit(name.front())) name.erase(name.begin());
  };
  trim();
  constexpr std::size_t kNumberLength = 8;
  if (name.size() > length_max - kNumberLength) name.resize(length_max - kNumberLength);
  trim();
  if (name.empty()) name = "x";
  std::string unique = name;
  for (int i = 2; !taken_.insert(unique).second; ++i) unique = fmt::format("{}-{}", name, i);
  return unique;
}

}  // namespace sublet
