#include "exe/this_node.h"

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/files.h"
#include "inventory/nvml_library.h"
#include "inventory/take.h"
#include "measure/cuda_library.h"
#include "model/document.h"

namespace sublet {
namespace {

std::optional<std::string> ProcessEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::string ProgramFolder() {
  return std::filesystem::path(OwnProgramPath()).parent_path().string();
}

}  // namespace

Result<SimulatedNode> SimulatedNode::Start(const std::string& preset) {
  std::string folder = (std::filesystem::temp_directory_path() / "sublet-sim-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return FailFromErrno(errno, "making " + folder);
  SimulatedNode simulation;
  simulation.state_ = folder;
  // The simulated driver is told by the environment which node to play.
  ::setenv("SUBLET_SIM", preset.c_str(), 1);
  ::setenv("SUBLET_SIM_STATE", folder.c_str(), 1);
  return simulation;
}

SimulatedNode::~SimulatedNode() {
  if (state_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(state_, ignored);
}

std::string NvmlPath(const std::string& flag) {
  return FindNvml(flag, ProcessEnvironment, ProgramFolder());
}

std::string CudaPath(const std::string& flag) {
  return FindCuda(flag, ProcessEnvironment, ProgramFolder());
}

Result<Inventory> TakeThisNode(const ThisNode& options) {
  TakeOptions take;
  take.nvml_path = NvmlPath(options.nvml);
  take.patience = std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout_s * 1000));
  return TakeInventory(take, ProcessEnvironment);
}

Result<Inventory> LoadNode(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  return ParseInventory(text, path);
}

}  // namespace sublet
