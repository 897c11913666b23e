#include "route/engine_metrics.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

namespace sublet {
namespace {

// What a metric's value means to us.
enum class Figure {
  kWaiting,
  kRunning,
  kUse,
  kBlockTokens,
  kBlocks,
  kPrefixQueries,
  kPrefixHits,
  kPreemptions,
  kVllmConfig,    // The value is 1; labels block_size and num_gpu_blocks have the figures.
  kSglangConfig,  // Likewise page_size and num_pages.
};

// A metric's name, and the label with its value that a line must have to be meant.
struct Meaning {
  std::string_view name;
  Figure figure;
  EngineFamily family;
  std::string_view label = {};
  std::string_view label_value = {};
};

using enum EngineFamily;

constexpr std::string_view kTritonRequests = "nv_trt_llm_request_metrics";
constexpr std::string_view kTritonBlocks = "nv_trt_llm_kv_cache_block_metrics";

constexpr std::array kMeanings = {
    Meaning{"vllm:num_requests_waiting", Figure::kWaiting, kVllm},
    Meaning{"vllm:num_requests_running", Figure::kRunning, kVllm},
    Meaning{"vllm:kv_cache_usage_perc", Figure::kUse, kVllm},
    Meaning{"vllm:gpu_cache_usage_perc", Figure::kUse, kVllm},  // Before 0.9.
    Meaning{"vllm:cache_config_info", Figure::kVllmConfig, kVllm},
    Meaning{"vllm:prefix_cache_queries_total", Figure::kPrefixQueries, kVllm},
    Meaning{"vllm:prefix_cache_hits_total", Figure::kPrefixHits, kVllm},
    Meaning{"vllm:num_preemptions_total", Figure::kPreemptions, kVllm},
    Meaning{"sglang:num_queue_reqs", Figure::kWaiting, kSglang},
    Meaning{"sglang:num_running_reqs", Figure::kRunning, kSglang},
    Meaning{"sglang:token_usage", Figure::kUse, kSglang},
    Meaning{"sglang:cache_config_info", Figure::kSglangConfig, kSglang},
    Meaning{"trtllm_num_requests_waiting", Figure::kWaiting, kTrtllm},
    Meaning{"trtllm_num_requests_running", Figure::kRunning, kTrtllm},
    Meaning{"trtllm_kv_cache_utilization", Figure::kUse, kTrtllm},
    Meaning{"trtllm_kv_cache_tokens_per_block", Figure::kBlockTokens, kTrtllm},
    Meaning{"trtllm_kv_cache_max_blocks", Figure::kBlocks, kTrtllm},
    Meaning{kTritonRequests, Figure::kWaiting, kTriton, "request_type", "waiting"},
    Meaning{kTritonRequests, Figure::kRunning, kTriton, "request_type", "scheduled"},
    Meaning{kTritonBlocks, Figure::kUse, kTriton, "kv_cache_block_type", "fraction"},
    Meaning{kTritonBlocks, Figure::kBlockTokens, kTriton, "kv_cache_block_type", "tokens_per"},
    Meaning{kTritonBlocks, Figure::kBlocks, kTriton, "kv_cache_block_type", "max"},
    Meaning{"llamacpp:requests_deferred", Figure::kWaiting, kLlamaCpp},
    Meaning{"llamacpp:requests_processing", Figure::kRunning, kLlamaCpp},
    Meaning{"llamacpp:kv_cache_usage_ratio", Figure::kUse, kLlamaCpp},  // Gone since 2025.
};

// More than this of anything is a mistake: 2^53, above which a double isn't a count any more.
constexpr double kValueMax = 9007199254740992.0;

bool IsSpace(char c) {
  return c == ' ' || c == '\t';
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && (IsSpace(text.back()) || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

// A finite number that isn't negative, at the front of `text`; a timestamp may follow.
std::optional<double> ValueOf(std::string_view text) {
  text = Trimmed(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  if (end != text.data() + text.size() && !IsSpace(*end)) return std::nullopt;
  if (!(value >= 0 && value <= kValueMax)) return std::nullopt;  // NaN too.
  return value;
}

// The labels of one line, `name="value",...` without the braces: the value of one of them. A value
// with an escape in it is none that is looked for.
std::optional<std::string_view> LabelOf(std::string_view labels, std::string_view name) {
  while (!labels.empty()) {
    const std::size_t equals = labels.find("=\"");
    if (equals == labels.npos) return std::nullopt;
    const std::string_view label = Trimmed(labels.substr(0, equals));
    labels.remove_prefix(equals + 2);
    std::size_t end = 0;
    while (end < labels.size() && labels[end] != '"') end += labels[end] == '\\' ? 2 : 1;
    if (end >= labels.size()) return std::nullopt;
    if (label == name) return labels.substr(0, end);
    labels.remove_prefix(end + 1);
    while (!labels.empty() && (labels.front() == ',' || IsSpace(labels.front()))) {
      labels.remove_prefix(1);
    }
  }
  return std::nullopt;
}

// A line of the text, taken apart.
struct Sample {
  std::string_view name;
  std::string_view labels;
  std::string_view rest;  // The value, and perhaps a timestamp.
};

// The end of the labels that begin at `open`, where there is a '{'; npos: they don't end.
std::size_t LabelsEnd(std::string_view line, std::size_t open) {
  bool quoted = false;
  for (std::size_t at = open + 1; at < line.size(); ++at) {
    if (quoted && line[at] == '\\') {
      ++at;
    } else if (line[at] == '"') {
      quoted = !quoted;
    } else if (line[at] == '}' && !quoted) {
      return at;
    }
  }
  return line.npos;
}

std::optional<Sample> SampleOf(std::string_view line, std::string_view name) {
  std::string_view rest = line.substr(name.size());
  if (rest.empty() || rest.front() != '{') return Sample{name, {}, rest};
  const std::size_t end = LabelsEnd(rest, 0);
  if (end == rest.npos) return std::nullopt;
  return Sample{name, rest.substr(1, end - 1), rest.substr(end + 1)};
}

// Sums the lines up.
class Reading {
 public:
  void Take(std::string_view line) {
    const std::string_view name = line.substr(0, line.find_first_of("{ \t"));
    for (const Meaning& meaning : kMeanings) {
      if (meaning.name != name) continue;
      const std::optional<Sample> sample = SampleOf(line, name);
      if (!sample) {
        ++metrics_.lines_unread;
        return;
      }
      if (!meaning.label.empty() && LabelOf(sample->labels, meaning.label) != meaning.label_value) {
        continue;
      }
      if (TakeFigure(meaning, *sample)) {
        metrics_.engine = meaning.family;
      } else {
        ++metrics_.lines_unread;
      }
      return;
    }
  }

  EngineMetrics Result() {
    if (uses_ > 0) metrics_.load.kv_used = use_sum_ / uses_;
    return metrics_;
  }

 private:
  bool TakeFigure(const Meaning& meaning, const Sample& sample) {
    switch (meaning.figure) {
      case Figure::kVllmConfig:
        return TakeConfig(sample, "block_size", "num_gpu_blocks");
      case Figure::kSglangConfig:
        return TakeConfig(sample, "page_size", "num_pages");
      default:
        break;
    }
    const std::optional<double> value = ValueOf(sample.rest);
    if (!value) return false;
    EngineLoad& load = metrics_.load;
    switch (meaning.figure) {
      case Figure::kWaiting:
        return Add(load.waiting, *value);
      case Figure::kRunning:
        return Add(load.running, *value);
      case Figure::kPrefixQueries:
        return Add(metrics_.prefix_queries, *value);
      case Figure::kPrefixHits:
        return Add(metrics_.prefix_hits, *value);
      case Figure::kPreemptions:
        return Add(metrics_.preemptions, *value);
      case Figure::kBlockTokens:
        return SetBlockTokens(*value);
      case Figure::kBlocks:
        return AddBlocks(*value);
      default:
        return TakeUse(*value);
    }
  }

  static bool Add(std::optional<double>& sum, double value) {
    sum = sum.value_or(0) + value;
    return true;
  }

  bool TakeUse(double value) {
    if (value > 1) return false;
    use_sum_ += value;
    ++uses_;
    return true;
  }

  // Both of them, or what there is: vLLM writes "None" for what it doesn't know yet.
  bool TakeConfig(const Sample& sample, std::string_view tokens_label,
                  std::string_view blocks_label) {
    const std::optional<std::string_view> tokens = LabelOf(sample.labels, tokens_label);
    const std::optional<std::string_view> blocks = LabelOf(sample.labels, blocks_label);
    bool any = false;
    if (const auto value = tokens ? ValueOf(*tokens) : std::nullopt) any |= SetBlockTokens(*value);
    if (const auto value = blocks ? ValueOf(*blocks) : std::nullopt) any |= AddBlocks(*value);
    return any;
  }

  bool SetBlockTokens(double value) {
    if (value < 1 || value > 1 << 20 || value != std::floor(value)) return false;
    metrics_.load.block_tokens = static_cast<int>(value);
    return true;
  }

  bool AddBlocks(double value) {
    if (value < 1 || value != std::floor(value)) return false;
    const double sum = static_cast<double>(metrics_.load.blocks.value_or(0)) + value;
    if (sum > kValueMax) return false;
    metrics_.load.blocks = static_cast<std::int64_t>(sum);
    return true;
  }

  EngineMetrics metrics_;
  double use_sum_ = 0;
  int uses_ = 0;
};

// Whether one of our names may begin like this; most lines of a page are ruled out here.
bool MayBeOurs(std::string_view line) {
  switch (line.front()) {
    case 'v':
      return line.starts_with("vllm:");
    case 's':
      return line.starts_with("sglang:");
    case 't':
      return line.starts_with("trtllm_");
    case 'n':
      return line.starts_with("nv_trt_llm_");
    case 'l':
      return line.starts_with("llamacpp:");
    default:
      return false;
  }
}

}  // namespace

std::string_view EngineFamilyName(EngineFamily family) {
  switch (family) {
    case kVllm:
      return "vllm";
    case kSglang:
      return "sglang";
    case kTrtllm:
      return "trtllm";
    case kTriton:
      return "triton";
    case kLlamaCpp:
      return "llama.cpp";
  }
  return "vllm";
}

EngineMetrics ParseEngineMetrics(std::string_view text) {
  if (text.size() > kEngineMetricsBytesMax) {
    text = text.substr(0, kEngineMetricsBytesMax);
    text = text.substr(0, text.rfind('\n') + 1);  // Half a number is another number.
  }
  Reading reading;
  while (!text.empty()) {
    const void* newline = std::memchr(text.data(), '\n', text.size());
    const std::size_t end =
        newline ? static_cast<std::size_t>(static_cast<const char*>(newline) - text.data())
                : text.size();
    const std::string_view line = text.substr(0, end);
    if (!line.empty() && MayBeOurs(line)) reading.Take(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return reading.Result();
}

}  // namespace sublet
