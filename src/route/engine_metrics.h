// route/engine_metrics.h
//
// What an inference engine's /metrics says of its load: the few figures that routing needs, out of
// a Prometheus text of any engine.
//
//   const EngineMetrics metrics = ParseEngineMetrics(body);
//   if (metrics.engine) router.OnScrape(slot, metrics.load, now_ns);
//
// Read are the names of vLLM (also its older ones), SGLang, TensorRT-LLM's own server, Triton's
// TensorRT-LLM backend and llama.cpp (docs/operating/routing-policies.md lists them). Everything
// else is passed over, and so is a line that isn't as the format has it: a figure that can't be
// read is absent, never zero.
//
// An engine that is several (data-parallel ranks, each with a label) tells each figure several
// times: counts are added up, and the use of the caches is the mean of them. vLLM's and SGLang's
// gauges of several models likewise.
//
// Source: the model server protocol of the Gateway API Inference Extension (proposal 003), and the
// engines' documentation. The format: Prometheus text exposition 0.0.4 and OpenMetrics 1.0.
//
// Thread safety: pure. Allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "route/router.h"

namespace sublet {

enum class EngineFamily { kVllm, kSglang, kTrtllm, kTriton, kLlamaCpp };
std::string_view EngineFamilyName(EngineFamily family);  // "vllm", "sglang", ...

struct EngineMetrics {
  std::optional<EngineFamily> engine;  // Absent: none of its figures was there.
  EngineLoad load;
  // Since the engine's start, in tokens: what was looked up in its prefix cache, and found.
  std::optional<double> prefix_queries;
  std::optional<double> prefix_hits;
  std::optional<double> preemptions;
  std::size_t lines_unread = 0;  // Of the names that are ours, and yet not readable.
};

// What is beyond is not read: vLLM's page with all its histograms has some 200 KiB.
inline constexpr std::size_t kEngineMetricsBytesMax = 8u << 20;

EngineMetrics ParseEngineMetrics(std::string_view text);

}  // namespace sublet
