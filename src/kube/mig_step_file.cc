#include "kube/mig_step_file.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kStepsBytesMax = 4u << 20;  // 16 GPUs have some 300 steps of 200 bytes.

}  // namespace

Result<std::vector<MigStep>> MigStepFile::Left() {
  begun_.clear();
  if (path_.empty()) return begun_;
  const Result<std::string> text = ReadFile(path_, kStepsBytesMax);
  if (!text) {
    if (text.error().code == ErrorCode::kNotFound) return begun_;
    return tl::unexpected<Error>(text.error());
  }
  ASSIGN_OR_RETURN(begun_, ParseMigSteps(*text, path_));
  return begun_;
}

Status MigStepFile::WillDo(const MigStep& step) {
  begun_.push_back(step);
  if (!path_.empty()) {
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    std::error_code error;
    if (!folder.empty()) std::filesystem::create_directories(folder, error);
    if (error) return FailFromErrno(error.value(), "making " + folder.string());
    RETURN_IF_ERROR(WriteFileAtomically(path_, MigStepsToJson(begun_).dump()));
  }
  return {};
}

void MigStepFile::Done(const MigStep& /*step*/) {
  // Undoing looks at what is there, so it needn't be told what was done.
}

Status MigStepFile::Clear() {
  begun_.clear();
  if (path_.empty()) return {};
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) {
    return FailFromErrno(errno, "removing " + path_);
  }
  return {};
}

}  // namespace sublet
