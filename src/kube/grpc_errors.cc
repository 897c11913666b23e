#include "kube/grpc_errors.h"

#include <fmt/format.h>

namespace sublet {
namespace {

grpc::StatusCode CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalid:
    case ErrorCode::kUsage:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case ErrorCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case ErrorCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case ErrorCode::kUnsupported:
    case ErrorCode::kInfeasible:
    case ErrorCode::kConflict:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case ErrorCode::kPermission:
      return grpc::StatusCode::PERMISSION_DENIED;
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return grpc::StatusCode::INTERNAL;
}

bool MayPass(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::INTERNAL:
      return true;
    default:
      return false;
  }
}

}  // namespace

grpc::Status ToGrpc(const Error& error) {
  std::string text = error.message;
  if (!error.hint.empty()) text += fmt::format(" ({})", error.hint);
  return {CodeOf(error.code), std::move(text)};
}

Error FromGrpc(const grpc::Status& status, std::string_view what) {
  return {MayPass(status.error_code()) ? ErrorCode::kUnavailable : ErrorCode::kConflict,
          fmt::format("{}: {} (gRPC status {})", what, status.error_message(),
                      static_cast<int>(status.error_code())),
          ""};
}

}  // namespace sublet
