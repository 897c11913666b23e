#include "fault_rules.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace sublet::sim {
namespace {

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<FaultRule> ParseRule(std::string_view text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos) return std::nullopt;
  const std::string_view kind = text.substr(0, equals);
  const std::vector<std::string_view> words = Split(text.substr(equals + 1), ':');
  std::vector<int> numbers;  // One for each word; -1 for a word that isn't a number.
  for (const std::string_view word : words) {
    int number = -1;
    const auto [end, ec] = std::from_chars(word.data(), word.data() + word.size(), number);
    numbers.push_back(ec == std::errc() && end == word.data() + word.size() ? number : -1);
  }
  const auto all_numbers_from = [&](std::size_t first) {
    for (std::size_t i = first; i < numbers.size(); ++i) {
      if (numbers[i] < 0) return false;
    }
    return true;
  };
  FaultRule rule;
  const std::size_t count = words.size();
  if (kind == "fail" || kind == "hang") {
    const bool fail = kind == "fail";
    const std::size_t fixed = fail ? 2 : 1;  // Words before the number of the call.
    const bool known =
        words[0].starts_with("nvml") || words[0].starts_with("cu") || words[0].starts_with("mps");
    if (count < fixed || count > fixed + 1 || !known || !all_numbers_from(1)) {
      return std::nullopt;
    }
    rule.kind = fail ? FaultRule::Kind::kFail : FaultRule::Kind::kHang;
    rule.function = words[0];
    if (fail) rule.code = numbers[1];
    if (count == fixed + 1) rule.nth = numbers[fixed];
    return rule;
  }
  if (!all_numbers_from(0)) return std::nullopt;
  rule.gpu = numbers[0];
  if (kind == "lost" && count == 1) {
    rule.kind = FaultRule::Kind::kLost;
    return rule;
  }
  if (kind == "ecc" && count == 2) {
    rule.kind = FaultRule::Kind::kEcc;
    rule.errors = numbers[1];
    return rule;
  }
  if (kind == "remap" && count == 1) {
    rule.kind = FaultRule::Kind::kRemap;
    return rule;
  }
  if (kind == "xid" && (count == 2 || count == 4)) {
    rule.kind = FaultRule::Kind::kXid;
    rule.xid = numbers[1];
    if (count == 4) {
      rule.gpu_instance = numbers[2];
      rule.compute_instance = numbers[3];
    }
    return rule;
  }
  return std::nullopt;
}

}  // namespace

Result<std::vector<FaultRule>> ParseFaults(std::string_view text) {
  std::vector<FaultRule> rules;
  for (const std::string_view part : Split(text, ';')) {
    if (part.empty()) continue;
    const std::optional<FaultRule> rule = ParseRule(part);
    if (!rule) {
      return Fail(ErrorCode::kInvalid, fmt::format("not a fault: '{}'", part),
                  "fail=FUNCTION:CODE[:NTH], hang=FUNCTION[:NTH], lost=GPU, xid=GPU:XID[:GI:CI], "
                  "ecc=GPU:COUNT or remap=GPU");
    }
    rules.push_back(*rule);
  }
  return rules;
}

}  // namespace sublet::sim
