#include "replay/replay_fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace sublet {
namespace {

std::optional<double> NumberFrom(std::string_view text, double min, double max) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (!(value >= min && value <= max)) return std::nullopt;
  return value;
}

// What stands between the marks; as many parts as marks, and one more.
std::vector<std::string_view> PartsOf(std::string_view text, char mark) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0, end = 0; end != std::string_view::npos; begin = end + 1) {
    end = text.find(mark, begin);
    parts.push_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
  }
  return parts;
}

tl::unexpected<Error> FailShares(std::string_view part) {
  return Fail(ErrorCode::kUsage, fmt::format("not a GPU's replicas: '{}'", part.substr(0, 40)),
              "such as 100, 60/25/15 or 3*50:74/50:26: percent of the SMs, and of the KV memory");
}

// Percents of a GPU that a replica has.
struct GpuPart {
  double sm_percent = 100;
  double kv_percent = 100;
};

Result<std::vector<GpuPart>> ParseGpuParts(std::string_view text) {
  std::vector<GpuPart> parts;
  double kv_percent = 0;
  for (const std::string_view part : PartsOf(text, '/')) {
    const std::vector<std::string_view> figures = PartsOf(part, ':');
    const std::optional<double> sm = NumberFrom(figures.front(), 1, 100);
    const std::optional<double> kv = NumberFrom(figures.back(), 1, 100);
    if (!sm || !kv || figures.size() > 2) return FailShares(text);
    kv_percent += *kv;
    parts.push_back({*sm, *kv});
  }
  // SMs may be promised twice; memory can't.
  if (kv_percent > 100.001) {
    return Fail(ErrorCode::kUsage,
                fmt::format("more than 100 % of a GPU's KV memory: '{}'", text.substr(0, 40)),
                "give its percent behind a colon, as in 60:50/60:50");
  }
  return parts;
}

}  // namespace

Result<std::vector<ReplayReplica>> ParseReplayFleet(std::string_view text, const ReplayGpu& gpu) {
  if (text == "uneven") text = kUnevenFleet;
  std::vector<ReplayReplica> fleet;
  int gpus = 0;
  for (std::string_view word : PartsOf(text, '+')) {
    double times = 1;
    if (const std::size_t star = word.find('*'); star != std::string_view::npos) {
      const std::optional<double> count = NumberFrom(word.substr(0, star), 1, kReplayReplicasMax);
      if (!count || *count != std::floor(*count)) return FailShares(word);
      times = *count;
      word.remove_prefix(star + 1);
    }
    ASSIGN_OR_RETURN(const std::vector<GpuPart> parts, ParseGpuParts(word));
    for (int i = 0; i < static_cast<int>(times); ++i, ++gpus) {
      for (std::size_t part = 0; part < parts.size(); ++part) {
        ReplayReplica& replica = fleet.emplace_back();
        replica.gpu = fmt::format("gpu{}", gpus);
        replica.name = parts.size() == 1 ? replica.gpu : fmt::format("{}/{}", replica.gpu, part);
        replica.sm_percent = parts[part].sm_percent;
        // Prefill computes, and computing goes with the SMs.
        replica.prefill_tokens_per_second =
            gpu.prefill_tokens_per_second * replica.sm_percent / 100;
        const double blocks = static_cast<double>(gpu.kv_blocks) * parts[part].kv_percent / 100;
        replica.kv_blocks = std::max<std::int64_t>(1, std::llround(blocks));
      }
      if (fleet.size() > static_cast<std::size_t>(kReplayReplicasMax)) {
        return Fail(ErrorCode::kUsage,
                    fmt::format("a fleet of more than {} replicas", kReplayReplicasMax));
      }
    }
  }
  return fleet;
}

}  // namespace sublet
