#include "engine/engine_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace sublet {
namespace {

void AppendFamily(std::string_view name, std::string_view type, std::string_view help,
                  std::string& out) {
  fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

template <typename Number>
void AppendValue(std::string_view name, std::string_view type, std::string_view help,
                 std::string_view labels, Number value, std::string& out) {
  AppendFamily(name, type, help, out);
  fmt::format_to(std::back_inserter(out), "{}{{{}}} {}\n", name, labels, value);
}

std::string Escaped(std::string_view label) {
  std::string out;
  for (const char c : label) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

void TimeHistogram::Observe(double seconds) {
  const auto bound = std::lower_bound(bounds_s_.begin(), bounds_s_.end(), seconds);
  ++counts_[static_cast<std::size_t>(bound - bounds_s_.begin())];
  sum_s_ += seconds;
}

void TimeHistogram::AppendText(std::string_view name, std::string_view labels,
                               std::string_view help, std::string& out) const {
  AppendFamily(name, "histogram", help, out);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < bounds_s_.size() ? fmt::format("{}", bounds_s_[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "{}_bucket{{le=\"{}\",{}}} {}\n", name, bound, labels,
                   total);
  }
  fmt::format_to(std::back_inserter(out), "{0}_count{{{1}}} {2}\n{0}_sum{{{1}}} {3}\n", name,
                 labels, total, sum_s_);
}

// The bounds are vLLM's.
EngineMeters::EngineMeters()
    : first_token_({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                    1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0}),
      each_token_({0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
                   7.5, 10.0, 20.0, 40.0, 80.0}),
      whole_({0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
              30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0}) {}

void EngineMeters::OnFinished(double since_arrival_s, std::string_view reason) {
  whole_.Observe(since_arrival_s);
  ++finished_[std::string(reason)];
}

std::string EngineMeters::Text(const Engine& engine, std::string_view model) const {
  const std::string labels = fmt::format("model_name=\"{}\",engine=\"0\"", Escaped(model));
  const EngineCounters& counters = engine.counters();
  const EngineOptions& options = engine.options();
  const double used =
      static_cast<double>(engine.blocks_used()) / static_cast<double>(options.kv_blocks);
  std::string out;
  AppendValue("vllm:num_requests_running", "gauge", "Requests in the batch.", labels,
              engine.running(), out);
  AppendValue("vllm:num_requests_waiting", "gauge", "Requests that wait to be processed.", labels,
              engine.waiting(), out);
  AppendValue("vllm:kv_cache_usage_perc", "gauge", "KV cache usage; 1 is all of it.", labels, used,
              out);
  AppendValue("vllm:cache_config_info", "gauge", "The cache's configuration.",
              fmt::format("{},block_size=\"{}\",num_gpu_blocks=\"{}\",enable_prefix_caching=\"{}\"",
                          labels, options.block_tokens, options.kv_blocks,
                          options.prefix_caching ? "True" : "False"),
              1, out);
  const auto counter = [&](std::string_view name, std::string_view help, std::int64_t value) {
    AppendValue(name, "counter", help, labels, value, out);
  };
  counter("vllm:prefix_cache_queries_total", "Tokens asked for.", counters.prompt_tokens);
  counter("vllm:prefix_cache_hits_total", "Tokens found.", counters.cached_tokens);
  counter("vllm:num_preemptions_total", "Preemptions.", counters.preemptions);
  counter("vllm:prompt_tokens_total", "Prefill tokens processed.", counters.prompt_tokens);
  counter("vllm:generation_tokens_total", "Tokens generated.", counters.output_tokens);
  AppendFamily("vllm:request_success_total", "counter", "Requests by how they finished.", out);
  for (const auto& [reason, count] : finished_) {
    fmt::format_to(std::back_inserter(out),
                   "vllm:request_success_total{{finished_reason=\"{}\",{}}} {}\n", reason, labels,
                   count);
  }
  first_token_.AppendText("vllm:time_to_first_token_seconds", labels, "Time to the first token.",
                          out);
  each_token_.AppendText("vllm:time_per_output_token_seconds", labels, "Time of each other token.",
                         out);
  whole_.AppendText("vllm:e2e_request_latency_seconds", labels, "Time of whole requests.", out);
  return out;
}

}  // namespace sublet
