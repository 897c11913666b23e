#include "model/profile_book.h"

#include <fmt/format.h>

#include <utility>

#include "model/calibration.h"

namespace sublet {

Result<WorkloadProfile> ProfileBook::Load(const std::string& reference) const {
  const std::size_t mark = reference.rfind('#');
  const std::string path = reference.substr(0, mark);
  const std::string name = mark == std::string::npos ? "" : reference.substr(mark + 1);
  if (path.empty()) {
    return Fail(ErrorCode::kInvalid, "no file is named",
                "write profile: FILE, or FILE#NAME for one of a calibration");
  }
  if (!loader_) {
    return Fail(ErrorCode::kInvalid, "a profile in a file of its own can't be read here",
                "list its points: profile: [{sm_percent: ..., speed: ...}, ...]");
  }
  ASSIGN_OR_RETURN(const std::string text, loader_(path));
  return ParseProfileNamed(text, path, name);
}

Result<WorkloadProfile> ProfileBook::Open(const Node& reference) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(reference));
  if (const auto known = known_.find(text); known != known_.end()) return known->second;
  Result<WorkloadProfile> profile = Load(text);
  if (!profile) {
    Error error = FailAt(reference, fmt::format("profile: {}", profile.error().message)).value();
    error.code = profile.error().code;
    error.hint = profile.error().hint;
    return tl::unexpected<Error>(std::move(error));
  }
  return known_.emplace(text, *std::move(profile)).first->second;
}

}  // namespace sublet
