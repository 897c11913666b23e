// Target linux: systemd units and scripts for the machines of a plan, one folder a machine.
//
//   MACHINE/install.sh         copies bin/, etc/ and replicas/ to /opt/sublet, units to systemd
//   MACHINE/bin, etc           the scripts of render/shell/ and their settings
//   MACHINE/replicas/NAME      starts one replica, confined
//   MACHINE/systemd/*          sublet.target, which wants everything else:
//     sublet-mig.service           creates the MIG instances, as root
//     sublet-mps-SERVER.service    one control daemon
//     sublet-replica-NAME.service  one replica; stops when its control daemon does
//
// A GPU that one MPS server has to itself is put into compute mode EXCLUSIVE_PROCESS while the
// server runs: the driver then refuses processes that miss the server. Several servers can't run in
// that mode; there bin/confined and bin/check-node are what notices.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

constexpr std::string_view kHome = "/opt/sublet";

// Unit and script names of the things in one machine.
struct UnitNames {
  std::map<std::string, std::string> servers;   // Server name to unit.
  std::map<std::string, std::string> replicas;  // Replica id to script name.
};

UnitNames NamesOf(const NodeGroup& machine) {
  UnitNames names;
  UniqueNames server_names;
  UniqueNames replica_names;
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      for (const PlannedServer& server : partition.servers) {
        names.servers[server.name] =
            fmt::format("sublet-mps-{}.service", server_names.Name(server.name));
      }
      for (const PlannedReplica& replica : partition.replicas) {
        names.replicas[replica.id] = replica_names.Name(replica.id);
      }
    }
  }
  return names;
}

std::string ReplicaUnit(const UnitNames& names, const std::string& id) {
  return fmt::format("sublet-replica-{}.service", names.replicas.at(id));
}

bool HasMig(const NodeGroup& machine) {
  return std::any_of(machine.gpus.begin(), machine.gpus.end(),
                     [](const PlannedGpu* gpu) { return gpu->mig; });
}

std::string MigUnit() {
  return fmt::format(R"([Unit]
Description=MIG instances of the Sublet plan
After=nvidia-persistenced.service
PartOf=sublet.target

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=sublet/mig
RuntimeDirectoryPreserve=yes
ExecStart={}/bin/mig-instances apply

[Install]
WantedBy=sublet.target
)",
                     kHome);
}

// Lines that make a unit wait for the MIG instances where the machine has any.
std::string AfterMig(const NodeGroup& machine) {
  if (!HasMig(machine)) return "";
  return "Requires=sublet-mig.service\nAfter=sublet-mig.service\n";
}

std::string ServerUnit(const NodeGroup& machine, const PlannedGpu& gpu,
                       const PlannedPartition& partition, const PlannedServer& server) {
  std::string guard;
  std::string unguard;
  if (!gpu.mig && partition.servers.size() == 1) {
    guard =
        fmt::format("ExecStartPre=+{}/bin/compute-mode {} EXCLUSIVE_PROCESS\n", kHome, gpu.name);
    unguard = fmt::format("ExecStopPost=+{}/bin/compute-mode {} DEFAULT\n", kHome, gpu.name);
  }
  // Type=forking: the start script ends when the limits have been read back, and only then may
  // replicas start. "+": root sets the compute mode, nobody else may.
  return fmt::format(R"([Unit]
Description=MPS server {0} of the Sublet plan
After=nvidia-persistenced.service
PartOf=sublet.target
{1}
[Service]
Type=forking
User=sublet
UMask=0077
RuntimeDirectory=sublet/{2}
RuntimeDirectoryMode=0700
LogsDirectory=sublet/{2}
PIDFile=/run/sublet/{2}/pipe/nvidia-cuda-mps-control.pid
{3}ExecStart={4}/bin/mps-server start {2}
ExecStop={4}/bin/mps-server stop {2}
{5}Restart=on-failure
RestartSec=5
TimeoutStartSec=60
TimeoutStopSec=60

[Install]
WantedBy=sublet.target
)",
                     SystemdLiteral(server.name), AfterMig(machine), server.name, guard, kHome,
                     unguard);
}

std::string_view RestartOf(const PlannedWorkload& workload) {
  switch (workload.restart) {
    case RestartPolicy::kAlways:
      return "always";
    case RestartPolicy::kOnFailure:
      return "on-failure";
    case RestartPolicy::kNever:
      return "no";
  }
  CHECK(false);
}

std::string ReplicaUnitText(const NodeGroup& machine, const UnitNames& names, const Seat& seat) {
  std::string bound = AfterMig(machine);
  if (seat.server != nullptr) {
    // Not Requires=: without its server a client would go on, or start again, unconfined.
    const std::string& server = names.servers.at(seat.server->name);
    bound += fmt::format("BindsTo={0}\nAfter={0}\n", server);
  }
  std::string stop;
  if (seat.workload->stop_timeout_s) {
    stop =
        fmt::format("TimeoutStopSec={}ms\n", std::llround(*seat.workload->stop_timeout_s * 1000));
  }
  return fmt::format(R"([Unit]
Description=Replica {0} of the Sublet plan
After=network-online.target
Wants=network-online.target
PartOf=sublet.target
{1}
[Service]
Type=exec
User=sublet
ExecStart={2}/replicas/{3}
Restart={4}
RestartSec=5
{5}
[Install]
WantedBy=sublet.target
)",
                     seat.replica->id, bound, kHome, names.replicas.at(seat.replica->id),
                     RestartOf(*seat.workload), stop);
}

// Each unit also says so in its [Install] section; the target's own list works without enabling
// them.
std::string TargetUnit(const std::vector<std::string>& units) {
  std::string wants;
  for (const std::string& unit : units) wants += fmt::format("Wants={}\n", unit);
  return fmt::format(R"([Unit]
Description=Everything of the Sublet plan on this machine
{}
[Install]
WantedBy=multi-user.target
)",
                     wants);
}

// Words are literal: what looks like an expansion is part of the workload's own command.
std::string ReplicaScript(const Seat& seat) {
  const PlannedReplica& replica = *seat.replica;
  const std::optional<Bytes> limit = seat.server ? MpsMemoryLimit(replica) : std::nullopt;
  const std::optional<int> percent = seat.server ? replica.sm_percent : std::nullopt;
  std::string out = fmt::format(
      "#!/bin/sh\n# shellcheck disable=SC1003,SC2016,SC2088\nset -eu\n"
      "home=$(CDPATH='' cd -- \"$(dirname -- \"$0\")/..\" && pwd)\n"
      "exec \"$home/bin/confined\" {} {} {} {}",
      seat.partition->name, seat.server ? seat.server->name : "-",
      limit ? std::to_string(limit->mib_rounded_up()) : "-",
      percent ? std::to_string(*percent) : "-");
  const std::optional<int> port = PortOfReplica(seat.workload->port, replica.id);
  if (!seat.workload->env.empty() || port) out += " \\\n  env";
  if (port) out += fmt::format(" \\\n  PORT={}", *port);
  for (const auto& [name, value] : seat.workload->env) {
    out += " \\\n  " + ShellQuote(fmt::format("{}={}", name, value));
  }
  out += " \\\n ";
  for (const std::string& word : seat.workload->command) out += " " + ShellQuote(word);
  return out + "\n";
}

std::string InstallScript(const std::vector<std::string>& units,
                          const std::vector<std::string>& scripts) {
  std::string out = fmt::format(R"sh(#!/bin/sh
set -eu
source=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${{1:-}}
units=$root/etc/systemd/system
home=$root{}
if [ -z "$root" ] && ! id -u sublet >/dev/null 2>&1; then
  useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin sublet
fi
mkdir -p -- "$units" "$home/bin" "$home/etc" "$home/replicas"
cp -- "$source"/bin/* "$home/bin/"
for file in gpus.conf partitions.conf servers.conf; do
  cp -- "$source/etc/$file" "$home/etc/"
done
)sh",
                                kHome);
  for (const std::string& script : scripts) {
    out += fmt::format("cp -- \"$source/replicas/{0}\" \"$home/replicas/\"\n", script);
  }
  for (const std::string& unit : units) {
    out += fmt::format("cp -- \"$source/systemd/{0}\" \"$units/\"\n", unit);
  }
  return out + R"sh(if [ -z "$root" ]; then
  systemctl daemon-reload
  echo "installed; start it with: systemctl enable --now sublet.target"
fi
)sh";
}

void RenderMachine(const NodeGroup& machine, TargetFiles& files) {
  const std::string base = MachineName(machine) + "/";
  const UnitNames names = NamesOf(machine);
  AddMachineFiles(machine, base, files);
  std::vector<std::string> units;
  const auto add_unit = [&](const std::string& name, std::string text) {
    units.push_back(name);
    files.push_back({base + "systemd/" + name, {}, std::move(text)});
  };
  if (HasMig(machine)) add_unit("sublet-mig.service", MigUnit());
  for (const PlannedGpu* gpu : machine.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      for (const PlannedServer& server : partition.servers) {
        add_unit(names.servers.at(server.name), ServerUnit(machine, *gpu, partition, server));
      }
    }
  }
  std::vector<std::string> scripts;
  for (const Seat& seat : machine.seats) {
    if (seat.workload->command.empty()) continue;  // Left out; the head says so.
    const std::string& script = names.replicas.at(seat.replica->id);
    scripts.push_back(script);
    files.push_back({fmt::format("{}replicas/{}", base, script),
                     {fmt::format("Replica {}: {}", seat.replica->id, seat.replica->reason)},
                     ReplicaScript(seat),
                     0755});
    add_unit(ReplicaUnit(names, seat.replica->id), ReplicaUnitText(machine, names, seat));
  }
  std::string target = TargetUnit(units);
  add_unit("sublet.target", std::move(target));
  files.push_back(
      {base + "install.sh",
       {"Copies the scripts to /opt/sublet and the units to /etc/systemd/system; with an "
        "argument, below that folder instead of /. Replicas and MPS servers run as the "
        "user sublet, which it creates: clients of one MPS server must be of one user."},
       InstallScript(units, scripts),
       0755});
}

}  // namespace

TargetFiles RenderLinux(const Deployment& deployment) {
  TargetFiles files;
  for (const NodeGroup& machine : OneMachine(deployment)) RenderMachine(machine, files);
  return files;
}

}  // namespace sublet
