#include "exe/chosen_gpu.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace sublet {

Result<const Gpu*> ChooseGpu(const Inventory& node, const std::string& wanted) {
  for (const Gpu& gpu : node.gpus) {
    if (!wanted.empty() && gpu.uuid != wanted && std::to_string(gpu.index) != wanted) continue;
    if (gpu.problem.empty()) return &gpu;
    if (!wanted.empty()) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("GPU {} can't be used: {}", wanted, gpu.problem));
    }
  }
  if (wanted.empty()) {
    return Fail(ErrorCode::kUnavailable, "this node has no usable GPU",
                "sublet inspect says what is wrong; --sim h200 tries a simulated one");
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no such GPU: {}", wanted),
              "sublet inspect lists the GPUs of this node");
}

std::vector<std::string> OthersOn(const Gpu& gpu) {
  std::vector<std::string> others;
  for (const GpuProcess& process : gpu.processes) {
    others.push_back(fmt::format(
        "{} {}, {}", process.pid, process.name.empty() ? "(no name)" : process.name,
        process.memory ? fmt::format("{} MiB", process.memory->mib()) : "memory unknown"));
  }
  return others;
}

Status CheckIdle(const std::vector<std::string>& others, bool force) {
  if (others.empty() || force) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the GPU is in use by {} process{}: {}", others.size(),
                          others.size() == 1 ? "" : "es", fmt::join(others, "; ")),
              "stop them, choose another GPU with --gpu, or measure beside them with --force");
}

std::string WhyNoMps(const Inventory& node, const Gpu& gpu) {
  for (const ModeCheck& check : node.modes) {
    if (check.mode != SharingMode::kMps) continue;
    if (std::ranges::find(check.gpus, gpu.index) != check.gpus.end()) return {};
    return check.reasons.empty() ? "MPS can't run here"
                                 : fmt::format("{}", fmt::join(check.reasons, "; "));
  }
  return {};
}

}  // namespace sublet
