#include "exe/this_node.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/files.h"
#include "inventory/nvml_library.h"
#include "inventory/take.h"
#include "model/document.h"

namespace sublet {
namespace {

std::optional<std::string> ProcessEnvironment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::string ProgramFolder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}

}  // namespace

Result<Inventory> TakeThisNode(const ThisNode& options) {
  TakeOptions take;
  take.nvml_path = FindNvml(options.nvml, ProcessEnvironment, ProgramFolder());
  take.patience = std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout_s * 1000));
  return TakeInventory(take, ProcessEnvironment);
}

Result<Inventory> LoadNode(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  return ParseInventory(text, path);
}

}  // namespace sublet
