// base/result.h
//
// How a function says that the world did not play along.
//
// Result<T> holds a T or an Error. The driver, a file, a user's input, the network: whatever can go
// wrong outside this program comes back as a Result. A broken promise of our own code is not an
// Error: CHECK (base/check.h) ends the program there and then.
//
//   Result<Plan> LoadPlan(const std::string& path) {
//     ASSIGN_OR_RETURN(std::string text, ReadFile(path, kPlanBytesMax));
//     return ParsePlan(text, path);
//   }
//
// An Error's message is lower case and has the values last; its hint, when there is one, says what
// the reader can do about it. The code decides the program's exit status (ExitStatus below), so two
// errors that a script would treat alike share a code.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace sublet {

enum class ErrorCode {
  kInfeasible,   // Asked and answered: no such plan, placement or share exists.
  kUsage,        // The command line is wrong.
  kInvalid,      // A file or value was read and is wrong.
  kNotFound,     // A file, board, GPU or name does not exist.
  kUnavailable,  // The driver, a device or a service is missing or does not answer.
  kUnsupported,  // Understood, but this target, board or driver can't do it.
  kConflict,     // The world differs from what the input assumed.
  kIo,           // Reading or writing failed.
  kPermission,   // Not allowed to.
  kInternal,     // Our own fault, caught before harm was done.
};

// The name as it stands in --json output: "infeasible", "usage", ...
std::string_view ErrorCodeName(ErrorCode code);

// The process's exit status for an error: 1 infeasible, 2 usage, 3 invalid, 4 not found,
// 5 unavailable, 6 unsupported, 7 conflict, 8 io, 9 permission, 70 internal (EX_SOFTWARE).
int ExitStatus(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string hint;  // What to do about it; may be empty.

  // Puts what was being done in front: "reading fleet.yaml: <message>".
  Error Prefixed(std::string_view context) &&;
};

template <typename T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Status = Result<void>;

[[nodiscard]] inline tl::unexpected<Error> Fail(ErrorCode code, std::string message,
                                                std::string hint = {}) {
  return tl::unexpected<Error>(Error{code, std::move(message), std::move(hint)});
}

}  // namespace sublet

#define SUBLET_CONCAT_INNER(a, b) a##b
#define SUBLET_CONCAT(a, b) SUBLET_CONCAT_INNER(a, b)

// Assigns the value of a Result to `lhs`, or returns its Error from the calling function.
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(SUBLET_CONCAT(sublet_result_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(result, lhs, expr)                                    \
  auto result = (expr);                                                             \
  if (!result) return ::tl::unexpected<::sublet::Error>(std::move(result).error()); \
  lhs = std::move(*result)

#define RETURN_IF_ERROR(expr)                                                     \
  do {                                                                            \
    if (auto sublet_status = (expr); !sublet_status)                              \
      return ::tl::unexpected<::sublet::Error>(std::move(sublet_status).error()); \
  } while (false)
