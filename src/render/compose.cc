// Target compose: a compose file for each machine, for podman or docker with CDI.
//
//   MACHINE/compose.yaml     one service an MPS server, one a replica
//   MACHINE/.env             which CDI device each partition is
//   MACHINE/sublet/          the scripts of render/shell/ and their settings, mounted read-only
//
// A server's container holds the control daemon; its pipe directory is a volume that its clients'
// containers share, and all of them share the host's IPC namespace, through which MPS moves data. A
// replica with a command starts through bin/confined, in its own image, and so refuses to run
// without its server at every start. One without a command keeps the image's entry point: it waits
// for the server to be healthy and is never restarted, because nobody would check again.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kScripts = "/sublet";
// Any image with sh, coreutils and awk: the driver's own programs come in with the CDI device.
constexpr std::string_view kServerImage = "docker.io/library/debian:12-slim";

// "SUBLET_DEVICE_GPU0_1G_10GB_0": a variable's name for each partition.
std::map<std::string, std::string> DeviceVariables(const NodeGroup& machine) {
  std::map<std::string, std::string> variables;
  UniqueNames names;
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      std::string name = partition.name;
      for (char& c : name) {
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
        if (!(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9')) c = '_';
      }
      name = names.Name("SUBLET_DEVICE_" + name);
      std::replace(name.begin(), name.end(), '-', '_');  // Of a number that makes it unique.
      variables[partition.name] = name;
    }
  }
  return variables;
}

std::string EnvFile(const NodeGroup& machine, const std::map<std::string, std::string>& variables) {
  std::string out;
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      const bool known = !gpu->mig && !gpu->uuid.empty();
      out += fmt::format("{}={}\n", variables.at(partition.name),
                         known ? "nvidia.com/gpu=" + gpu->uuid : "");
    }
  }
  return out;
}

ordered_json DevicesOf(const std::string& variable, const std::string& partition) {
  return ordered_json::array(
      {fmt::format("${{{}:?write the CDI device of {} into .env}}", variable, partition)});
}

// What every container with MPS has: the scripts, its server's pipe directory, one device.
ordered_json MpsEnvironment() {
  ordered_json environment;
  environment["SUBLET_DEVICE"] = "0";
  environment["SUBLET_RUN_DIR"] = "/run/sublet";
  environment["SUBLET_LOG_DIR"] = "/var/log/sublet";
  return environment;
}

std::string ServerService(const PlannedServer& server) {
  return "mps-" + UniqueNames().Name(server.name);
}

ordered_json VolumesOf(const PlannedServer& server) {
  return ordered_json::array(
      {"./sublet:" + std::string(kScripts) + ":ro",
       fmt::format("{}:/run/sublet/{}", ServerService(server), server.name)});
}

ordered_json ServerObject(const PlannedServer& server, ordered_json devices) {
  const std::string program = std::string(kScripts) + "/bin/mps-server";
  ordered_json service;
  service["image"] = fmt::format("${{SUBLET_MPS_IMAGE:-{}}}", kServerImage);
  service["devices"] = std::move(devices);
  service["ipc"] = "host";
  // Client processes are known to the server by the host's process ids.
  service["pid"] = "host";
  service["environment"] = MpsEnvironment();
  // Replicas' images may run as any user: they must be able to enter, and confined checks that.
  service["environment"]["SUBLET_PIPE_MODE"] = "0755";
  service["volumes"] = VolumesOf(server);
  service["entrypoint"] = ordered_json::array({"/bin/sh", program, "run", server.name});
  ordered_json health;
  health["test"] = ordered_json::array({"CMD", "/bin/sh", program, "check", server.name});
  health["interval"] = "5s";
  health["timeout"] = "30s";
  health["retries"] = 3;
  health["start_period"] = "20s";
  service["healthcheck"] = std::move(health);
  service["restart"] = "unless-stopped";
  return service;
}

ordered_json CommandOf(const Seat& seat) {
  ordered_json words = ordered_json::array();
  for (const std::string& word : seat.workload->command) words.push_back(ComposeLiteral(word));
  return words;
}

std::string_view RestartOf(const PlannedWorkload& workload) {
  switch (workload.restart) {
    case RestartPolicy::kAlways:
      return "unless-stopped";
    case RestartPolicy::kOnFailure:
      return "on-failure";
    case RestartPolicy::kNever:
      return "no";
  }
  CHECK(false);
}

void AddMps(const Seat& seat, ordered_json& service) {
  const std::optional<Bytes> limit = MpsMemoryLimit(*seat.replica);
  const std::string memory = limit ? std::to_string(limit->mib_rounded_up()) : "-";
  const std::string percent =
      seat.replica->sm_percent ? std::to_string(*seat.replica->sm_percent) : "-";
  service["ipc"] = "host";
  service["environment"].update(MpsEnvironment());
  service["volumes"] = VolumesOf(*seat.server);
  service["depends_on"][ServerService(*seat.server)]["condition"] = "service_healthy";
  if (!seat.workload->command.empty()) {
    ordered_json entry =
        ordered_json::array({"/bin/sh", std::string(kScripts) + "/bin/confined",
                             seat.partition->name, seat.server->name, memory, percent});
    for (const ordered_json& word : CommandOf(seat)) entry.push_back(word);
    service["entrypoint"] = std::move(entry);
    service["restart"] = RestartOf(*seat.workload);
    return;
  }
  service["environment"]["CUDA_MPS_PIPE_DIRECTORY"] =
      fmt::format("/run/sublet/{}/pipe", seat.server->name);
  if (percent != "-") service["environment"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = percent;
  if (limit) service["environment"]["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = "0=" + memory + "M";
  service["restart"] = "no";
}

// A duration as Compose writes it.
std::string Milliseconds(double seconds) {
  return fmt::format("{}ms", std::llround(seconds * 1000));
}

// Probes by HTTP and TCP have no equivalent: Compose runs a program inside the container, and the
// image may have none that connects.
void AddLaunch(const PlannedWorkload& workload, ordered_json& service) {
  if (workload.stop_timeout_s) {
    service["stop_grace_period"] = Milliseconds(*workload.stop_timeout_s);
  }
  if (!workload.ready || workload.ready->command.empty()) return;
  ordered_json health;
  health["test"].push_back("CMD");
  for (const std::string& word : workload.ready->command) {
    health["test"].push_back(ComposeLiteral(word));
  }
  health["interval"] = Milliseconds(workload.ready->period_s);
  health["start_period"] = Milliseconds(workload.ready->timeout_s);
  service["healthcheck"] = std::move(health);
}

ordered_json ReplicaObject(const Seat& seat, ordered_json devices) {
  ordered_json service;
  service["image"] = ComposeLiteral(ImageOf(*seat.workload));
  service["devices"] = std::move(devices);
  ordered_json environment = ordered_json::object();
  for (const auto& [name, value] : seat.workload->env) environment[name] = ComposeLiteral(value);
  // Each container has a network of its own, so all replicas listen on the first port.
  if (seat.workload->port) environment["PORT"] = std::to_string(*seat.workload->port);
  service["environment"] = std::move(environment);
  AddLaunch(*seat.workload, service);
  if (seat.server != nullptr) {
    AddMps(seat, service);
  } else {
    if (!seat.workload->command.empty()) service["entrypoint"] = CommandOf(seat);
    service["restart"] = RestartOf(*seat.workload);
  }
  if (service["environment"].empty()) service.erase("environment");
  return service;
}

ordered_json ComposeObject(const Deployment& deployment, const NodeGroup& machine,
                           const std::map<std::string, std::string>& variables) {
  const auto devices = [&](const PlannedPartition& partition) {
    return DevicesOf(variables.at(partition.name), partition.name);
  };
  ordered_json services = ordered_json::object();
  ordered_json volumes = ordered_json::object();
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      for (const PlannedServer& server : partition.servers) {
        services[ServerService(server)] = ServerObject(server, devices(partition));
        volumes[ServerService(server)] = ordered_json::object();
      }
    }
  }
  UniqueNames names;
  for (const Seat& seat : machine.seats) {
    services[names.Name("replica-" + seat.replica->id)] =
        ReplicaObject(seat, devices(*seat.partition));
  }
  ordered_json compose;
  compose["name"] =
      UniqueNames(UniqueNames::Form::kDnsLabel).Name("sublet-" + deployment.plan->fleet);
  compose["services"] = std::move(services);
  if (!volumes.empty()) compose["volumes"] = std::move(volumes);
  return compose;
}

}  // namespace

TargetFiles RenderCompose(const Deployment& deployment) {
  TargetFiles files;
  for (const NodeGroup& machine : OneMachine(deployment)) {
    const std::string base = MachineName(machine) + "/";
    const std::map<std::string, std::string> variables = DeviceVariables(machine);
    files.push_back(
        {base + "compose.yaml",
         {"For podman and docker with CDI (nvidia-ctk cdi generate), from this folder: podman "
          "compose "
          "up, or docker compose up. MIG instances must exist (targets mig and linux)."},
         YamlText(ComposeObject(deployment, machine, variables))});
    files.push_back(
        {base + ".env",
         {"The CDI device of each partition: nvidia.com/gpu=UUID for a GPU, "
          "nvidia.com/gpu=MIG-UUID for a MIG instance (nvidia-ctk cdi list shows them). "
          "Compose refuses to start a service whose device is missing here."},
         EnvFile(machine, variables)});
    AddMachineFiles(machine, base + "sublet/", files);
  }
  return files;
}

}  // namespace sublet
