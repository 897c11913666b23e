#include "exe/run_request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "model/document.h"

namespace sublet {
namespace {

Result<int> ParsePercent(std::string_view text) {
  std::string_view digits = text;
  if (digits.ends_with('%')) digits.remove_suffix(1);
  int percent = 0;
  const char* const end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, percent);
  if (parsed.ec == std::errc() && parsed.ptr == end && percent >= 1 && percent <= 100) {
    return percent;
  }
  return Fail(ErrorCode::kUsage, fmt::format("--sm takes a percentage from 1 to 100: {}", text),
              "--sm 25%");
}

Result<std::optional<SharingMode>> ParseMode(const std::string& text) {
  std::optional<SharingMode> mode;
  if (text.empty() || text == "auto") return mode;
  std::vector<std::string_view> known = {"auto"};
  for (const auto& [word, value] : SharingModeWords()) {
    // Streams are within one process: nothing that could be granted to it.
    if (value == SharingMode::kStreams) continue;
    if (word == text) mode = value;
    known.push_back(word);
  }
  if (mode) return mode;
  return Fail(ErrorCode::kUsage,
              fmt::format("--mode is one of {}: {}", fmt::join(known, ", "), text),
              SuggestFor(text, known));
}

}  // namespace

Result<ShareRequest> RequestFrom(const RunWords& words) {
  ShareRequest request;
  request.name = words.name;
  if (request.name.empty() && !words.command.empty()) {
    const std::string& program = words.command.front();
    request.name = program.substr(program.rfind('/') + 1);
  }
  request.tenant = words.tenant;
  request.gpu = words.gpu;
  request.profile = words.profile;
  if (!words.memory.empty()) {
    const Result<Bytes> memory = ParseBytes(words.memory);
    if (!memory || memory->count <= 0) {
      return Fail(ErrorCode::kUsage,
                  fmt::format("--gpu-memory takes an amount of memory: {}", words.memory),
                  "--gpu-memory 20GiB");
    }
    request.memory = *memory;
  }
  if (!words.sm.empty()) {
    ASSIGN_OR_RETURN(request.sm_percent, ParsePercent(words.sm));
  }
  ASSIGN_OR_RETURN(request.mode, ParseMode(words.mode));
  if (!request.profile.empty()) {
    if (request.mode.value_or(SharingMode::kMig) != SharingMode::kMig) {
      return Fail(ErrorCode::kUsage, fmt::format("--profile is MIG's, not of mode {}", words.mode),
                  "leave --mode out");
    }
    request.mode = SharingMode::kMig;
  }
  return request;
}

std::string NotEnforcedText(const Share& share) {
  std::vector<std::string> what;
  for (const Enforcement& each : share.enforcement) {
    if (!each.enforced) what.push_back(each.what);
  }
  if (what.empty()) return "";
  return fmt::format("not enforced for {} ({}): {}", share.name, SharingModeName(share.mode),
                     fmt::join(what, ", "));
}

}  // namespace sublet
