#include "inventory/environment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <string>

namespace sublet {
namespace {

// Why a mode can't run on one GPU; empty where it can.
using Objection = std::string;

Objection AnyUse(const Gpu& gpu) {
  if (!gpu.problem.empty()) return gpu.problem;
  if (gpu.compute_mode == ComputeMode::kProhibited) {
    return "compute mode is prohibited: nvidia-smi -c DEFAULT allows processes again";
  }
  if (gpu.mig_enabled && gpu.instances.empty()) {
    return "MIG mode is on and no instance exists, so no process can run";
  }
  return {};
}

Objection TimeSlicing(const Gpu& gpu) {
  if (Objection objection = AnyUse(gpu); !objection.empty()) return objection;
  if (gpu.compute_mode == ComputeMode::kExclusiveProcess ||
      gpu.compute_mode == ComputeMode::kExclusiveThread) {
    return fmt::format("compute mode is {}, which admits one process: nvidia-smi -c DEFAULT",
                       ComputeModeName(*gpu.compute_mode));
  }
  return {};
}

Objection MpsHost(const Host& host, const std::vector<FoundMpsDaemon>& daemons) {
  if (host.wsl2) return "MPS does not run under WSL2";
  const bool daemon = std::ranges::any_of(daemons, &FoundMpsDaemon::answers);
  if (host.mps_control.empty() && !daemon) {
    return host.container
               ? "nvidia-cuda-mps-control is not in this container, and no daemon's pipe "
                 "is mounted into it"
               : "nvidia-cuda-mps-control is not installed";
  }
  if (!host.mps_pipe_usable) {
    return fmt::format("the pipe folder {} can't be entered{}", host.mps_pipe_directory,
                       host.container ? ": mount the daemon's into the container" : "");
  }
  if (!host.shm_usable) {
    return host.container ? "/dev/shm is not writable: clients and server need one IPC namespace"
                          : "/dev/shm is not writable";
  }
  return {};
}

Objection Mps(const Gpu& gpu) {
  if (Objection objection = AnyUse(gpu); !objection.empty()) return objection;
  // Before 7.0 (Volta) clients share one context, without limits of their own.
  if (gpu.compute_capability_major > 0 && gpu.compute_capability_major < 7) {
    return fmt::format("compute capability {}.{} is below 7.0, so clients can't be limited",
                       gpu.compute_capability_major, gpu.compute_capability_minor);
  }
  return {};
}

Objection MigBoard(const Gpu& gpu, const Driver& driver, const BoardCatalogue& boards) {
  if (!gpu.problem.empty()) return gpu.problem;
  if (gpu.mig_capable) return {};
  const Result<const Board*> board = boards.Find(gpu.board);
  if (!board) return "the driver reports no MIG mode";
  if (!(*board)->HasMig()) return fmt::format("the board has no MIG ({})", gpu.product);
  if (!DriverAtLeast(driver.version, (*board)->mig_driver_min)) {
    return fmt::format("driver {} is too old: MIG on {} needs {}", driver.version, gpu.board,
                       (*board)->mig_driver_min);
  }
  return "the driver reports no MIG mode, as in a guest that got a part of the GPU";
}

Objection MigHost(const Gpu& gpu, const Host& host, bool simulated) {
  if (simulated) return {};
  if (host.wsl2) return "MIG does not run under WSL2";
  if (host.admin || (gpu.mig_enabled && !gpu.instances.empty())) return {};
  return host.container
             ? "changing MIG needs CAP_SYS_ADMIN: run the container privileged, or on the host"
             : "changing MIG needs root (CAP_SYS_ADMIN)";
}

std::string GpuList(const std::vector<int>& indices) {
  return fmt::format("GPU{} {}", indices.size() == 1 ? "" : "s", fmt::join(indices, ", "));
}

ModeCheck Check(const Inventory& node, SharingMode mode,
                const std::function<Objection(const Gpu&)>& judge) {
  ModeCheck check{.mode = mode, .gpus = {}, .reasons = {}};
  std::vector<std::pair<Objection, std::vector<int>>> objections;  // In the GPUs' order.
  for (const Gpu& gpu : node.gpus) {
    Objection objection = judge(gpu);
    if (objection.empty()) {
      check.gpus.push_back(gpu.index);
      continue;
    }
    const auto known =
        std::ranges::find(objections, objection, &std::pair<Objection, std::vector<int>>::first);
    if (known != objections.end()) {
      known->second.push_back(gpu.index);
    } else {
      objections.emplace_back(std::move(objection), std::vector<int>{gpu.index});
    }
  }
  for (const auto& [objection, indices] : objections) {
    const bool all = indices.size() == node.gpus.size();
    check.reasons.push_back(all ? objection : fmt::format("{}: {}", GpuList(indices), objection));
  }
  if (node.gpus.empty()) check.reasons.emplace_back("there is no GPU");
  return check;
}

}  // namespace

bool DriverAtLeast(std::string_view have, std::string_view need) {
  const auto next = [](std::string_view& text) {
    int number = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (text.starts_with('.')) text.remove_prefix(1);
    return ec == std::errc() ? number : 0;
  };
  while (!need.empty()) {
    const std::size_t before = need.size();
    const int wanted = next(need);
    const int found = next(have);
    if (found != wanted) return found > wanted;
    if (need.size() == before) break;  // Not a number: nothing more to compare.
  }
  return true;
}

std::vector<ModeCheck> CheckModes(const Inventory& node, const BoardCatalogue& boards) {
  const bool simulated = node.driver.simulated;
  const Objection mps_host = simulated ? "" : MpsHost(node.host, node.mps_daemons);
  return {
      Check(node, SharingMode::kExclusive, AnyUse),
      Check(node, SharingMode::kStreams, AnyUse),
      Check(node, SharingMode::kTimeSlicing, TimeSlicing),
      Check(node, SharingMode::kMps,
            [&](const Gpu& gpu) { return mps_host.empty() ? Mps(gpu) : mps_host; }),
      Check(node, SharingMode::kMig,
            [&](const Gpu& gpu) {
              Objection objection = MigBoard(gpu, node.driver, boards);
              return objection.empty() ? MigHost(gpu, node.host, simulated) : objection;
            }),
  };
}

}  // namespace sublet
