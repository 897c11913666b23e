#include "base/result.h"

#include <fmt/format.h>

#include "base/check.h"

namespace sublet {

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInfeasible:
      return "infeasible";
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kInvalid:
      return "invalid";
    case ErrorCode::kNotFound:
      return "not-found";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kConflict:
      return "conflict";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kPermission:
      return "permission";
    case ErrorCode::kInternal:
      return "internal";
  }
  CHECK(false);
}

int ExitStatus(ErrorCode code) {
  if (code == ErrorCode::kInternal) return 70;
  return static_cast<int>(code) + 1;
}

Error Error::Prefixed(std::string_view context) && {
  message = fmt::format("{}: {}", context, message);
  return std::move(*this);
}

}  // namespace sublet
