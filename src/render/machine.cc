// What the targets linux and compose have in common: the scripts of render/shell/ and their
// settings.

#include <fmt/format.h>

#include "embedded/render_scripts.h"
#include "render/targets.h"

namespace sublet {
namespace {

std::string Limit(std::optional<Bytes> limit) {
  return limit ? std::to_string(limit->mib_rounded_up()) : "-";
}

std::string Percent(std::optional<int> percent) {
  return percent ? std::to_string(*percent) : "-";
}

std::string GpuSettings(const NodeGroup& machine) {
  std::string out;
  for (const PlannedGpu* gpu : machine.gpus) {
    out += fmt::format("{}{}{}\n", gpu->name, gpu->uuid.empty() ? "" : " ", gpu->uuid);
  }
  return out;
}

std::string PartitionSettings(const NodeGroup& machine) {
  std::string out;
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      out += fmt::format("{} {}", partition.name, gpu->name);
      if (gpu->mig) {
        out += fmt::format(" {} {} {}", partition.profile_id, partition.start, partition.size);
      }
      out += "\n";
    }
  }
  return out;
}

std::string ServerSettings(const NodeGroup& machine) {
  std::string out;
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      for (std::size_t i = 0; i < partition.servers.size(); ++i) {
        const ServerDefaults defaults = DefaultsOf(partition, static_cast<int>(i));
        out += fmt::format("{} {} {} {}\n", partition.servers[i].name, partition.name,
                           Limit(defaults.memory_limit), Percent(defaults.sm_percent));
      }
    }
  }
  return out;
}

}  // namespace

std::string MachineName(const NodeGroup& machine) {
  return machine.node.empty() ? "node" : machine.node;
}

void AddMachineFiles(const NodeGroup& machine, const std::string& base, TargetFiles& files) {
  const auto add_script = [&](std::string_view name, std::string_view text, unsigned mode) {
    files.push_back({fmt::format("{}bin/{}", base, name), {}, std::string(text), mode});
  };
  add_script("confine.sh", embedded::confine_sh, 0644);
  add_script("mps-server", embedded::mps_server_sh, 0755);
  add_script("confined", embedded::confined_sh, 0755);
  add_script("compute-mode", embedded::compute_mode_sh, 0755);
  add_script("mig-instances", embedded::mig_instances_sh, 0755);
  add_script("check-node", embedded::check_node_sh, 0755);

  files.push_back(
      {base + "etc/gpus.conf",
       {"GPU of the plan, UUID. Where the UUID is missing, the plan is for a GPU that was "
        "yet to be found: write it there (nvidia-smi -L lists them)."},
       GpuSettings(machine)});
  files.push_back({base + "etc/partitions.conf",
                   {"Partition, GPU, and for a MIG instance: profile id, start, size."},
                   PartitionSettings(machine)});
  files.push_back({base + "etc/servers.conf",
                   {"MPS server, partition, memory limit in MiB, percent of SMs (\"-\": no limit). "
                    "The largest of its clients' limits; each client lowers its own."},
                   ServerSettings(machine)});
}

}  // namespace sublet
