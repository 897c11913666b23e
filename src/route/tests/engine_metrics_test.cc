#include "route/engine_metrics.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <string>

namespace sublet {
namespace {

TEST(EngineMetrics, ReadsVllm) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
      "# TYPE vllm:num_requests_running gauge\n"
      "vllm:num_requests_running{engine=\"0\",model_name=\"meta/llama\"} 3.0\n"
      "vllm:num_requests_waiting{engine=\"0\",model_name=\"meta/llama\"} 2.0\n"
      "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"meta/llama\"} 0.25\n"
      "vllm:prefix_cache_queries_total{engine=\"0\"} 1.2e+06\n"
      "vllm:prefix_cache_hits_total{engine=\"0\"} 400000.0\n"
      "vllm:num_preemptions_total{engine=\"0\"} 7.0\n"
      "vllm:cache_config_info{block_size=\"16\",cache_dtype=\"auto\",engine=\"0\","
      "num_gpu_blocks=\"27401\",num_cpu_blocks=\"None\"} 1.0\n"
      "vllm:time_to_first_token_seconds_bucket{le=\"0.001\"} 0.0\n"
      "python_gc_objects_collected_total{generation=\"0\"} 99.0\n");
  EXPECT_EQ(metrics.engine, EngineFamily::kVllm);
  EXPECT_EQ(metrics.load.running, 3);
  EXPECT_EQ(metrics.load.waiting, 2);
  EXPECT_EQ(metrics.load.kv_used, 0.25);
  EXPECT_EQ(metrics.load.block_tokens, 16);
  EXPECT_EQ(metrics.load.blocks, 27401);
  EXPECT_EQ(metrics.prefix_queries, 1.2e6);
  EXPECT_EQ(metrics.prefix_hits, 400'000);
  EXPECT_EQ(metrics.preemptions, 7);
  EXPECT_EQ(metrics.lines_unread, 0u);
}

TEST(EngineMetrics, AddsUpTheRanksOfOneEngine) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "vllm:num_requests_waiting{engine=\"0\"} 2\n"
      "vllm:num_requests_waiting{engine=\"1\"} 5\n"
      "vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\n"
      "vllm:kv_cache_usage_perc{engine=\"1\"} 0.6\n"
      "vllm:cache_config_info{engine=\"0\",block_size=\"16\",num_gpu_blocks=\"100\"} 1\n"
      "vllm:cache_config_info{engine=\"1\",block_size=\"16\",num_gpu_blocks=\"100\"} 1\n");
  EXPECT_EQ(metrics.load.waiting, 7);
  EXPECT_DOUBLE_EQ(metrics.load.kv_used.value(), 0.4);
  EXPECT_EQ(metrics.load.blocks, 200);
}

TEST(EngineMetrics, ReadsOlderVllm) {
  const EngineMetrics metrics = ParseEngineMetrics("vllm:gpu_cache_usage_perc 0.5\n");
  EXPECT_EQ(metrics.load.kv_used, 0.5);
}

TEST(EngineMetrics, ReadsSglang) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "sglang:num_running_reqs{model_name=\"m\"} 4\n"
      "sglang:num_queue_reqs{model_name=\"m\"} 9\n"
      "sglang:token_usage{model_name=\"m\"} 0.75\n"
      "sglang:cache_config_info{page_size=\"1\",num_pages=\"228139\"} 1\n");
  EXPECT_EQ(metrics.engine, EngineFamily::kSglang);
  EXPECT_EQ(metrics.load.running, 4);
  EXPECT_EQ(metrics.load.waiting, 9);
  EXPECT_EQ(metrics.load.kv_used, 0.75);
  EXPECT_EQ(metrics.load.block_tokens, 1);
  EXPECT_EQ(metrics.load.blocks, 228'139);
}

TEST(EngineMetrics, ReadsTensorRtLlmsServer) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\n"
      "trtllm_kv_cache_utilization 0.1\ntrtllm_kv_cache_tokens_per_block 32\n"
      "trtllm_kv_cache_max_blocks 512\n");
  EXPECT_EQ(metrics.engine, EngineFamily::kTrtllm);
  EXPECT_EQ(metrics.load.waiting, 1);
  EXPECT_EQ(metrics.load.running, 2);
  EXPECT_EQ(metrics.load.kv_used, 0.1);
  EXPECT_EQ(metrics.load.block_tokens, 32);
  EXPECT_EQ(metrics.load.blocks, 512);
}

TEST(EngineMetrics, ReadsTritonByItsLabels) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "nv_trt_llm_request_metrics{model=\"t\",request_type=\"waiting\",version=\"1\"} 3\n"
      "nv_trt_llm_request_metrics{model=\"t\",request_type=\"scheduled\",version=\"1\"} 5\n"
      "nv_trt_llm_request_metrics{model=\"t\",request_type=\"max\",version=\"1\"} 512\n"
      "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"t\"} 0.3\n"
      "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\",model=\"t\"} 64\n"
      "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\",model=\"t\"} 6239\n"
      "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\",model=\"t\"} 2\n");
  EXPECT_EQ(metrics.engine, EngineFamily::kTriton);
  EXPECT_EQ(metrics.load.waiting, 3);
  EXPECT_EQ(metrics.load.running, 5);
  EXPECT_EQ(metrics.load.kv_used, 0.3);
  EXPECT_EQ(metrics.load.block_tokens, 64);
  EXPECT_EQ(metrics.load.blocks, 6239);
}

TEST(EngineMetrics, ReadsLlamaCpp) {
  const EngineMetrics metrics =
      ParseEngineMetrics("llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\n");
  EXPECT_EQ(metrics.engine, EngineFamily::kLlamaCpp);
  EXPECT_EQ(metrics.load.running, 1);
  EXPECT_EQ(metrics.load.waiting, 4);
  EXPECT_FALSE(metrics.load.kv_used);
}

TEST(EngineMetrics, ALabelsValueMayHaveBracesAndQuotes) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "vllm:num_requests_waiting{model_name=\"a}b\\\"c{\",engine=\"0\"} 6 1700000000000\r\n");
  EXPECT_EQ(metrics.load.waiting, 6);
}

TEST(EngineMetrics, WhatCantBeReadIsAbsentAndNotZero) {
  const EngineMetrics metrics = ParseEngineMetrics(
      "vllm:num_requests_waiting{engine=\"0\" 3\n"
      "vllm:num_requests_waiting NaN\n"
      "vllm:num_requests_waiting -1\n"
      "vllm:num_requests_waiting 1e300\n"
      "vllm:num_requests_running three\n"
      "vllm:kv_cache_usage_perc 1.5\n"
      "vllm:cache_config_info{num_gpu_blocks=\"None\",block_size=\"0\"} 1\n"
      "vllm:num_requests_waiting_by_reason 4\n");
  EXPECT_FALSE(metrics.engine);
  EXPECT_FALSE(metrics.load.waiting);
  EXPECT_FALSE(metrics.load.running);
  EXPECT_FALSE(metrics.load.kv_used);
  EXPECT_FALSE(metrics.load.blocks);
  EXPECT_EQ(metrics.lines_unread, 7u);
}

TEST(EngineMetrics, ATextWithoutOurNamesSaysNothing) {
  EXPECT_FALSE(ParseEngineMetrics("").engine);
  EXPECT_FALSE(ParseEngineMetrics("\n\n# EOF").engine);
  EXPECT_FALSE(ParseEngineMetrics("<html>404</html>").engine);
}

TEST(EngineMetrics, DoesNotReadHalfANumberAtItsLimit) {
  std::string text(kEngineMetricsBytesMax - 30, '#');
  text += "\nvllm:num_requests_waiting 123456\n";
  EXPECT_FALSE(ParseEngineMetrics(text).load.waiting);
}

RC_GTEST_PROP(EngineMetricsProperty, TheOrderOfLinesAndForeignOnesDontMatter,
              (std::vector<std::string> foreign)) {
  std::string text;
  for (std::string line : foreign) {
    std::erase_if(line, [](char c) { return c == '\n'; });
    text += "x" + line + "\n";
  }
  const std::string waiting = "sglang:num_queue_reqs 3\n";
  const std::string running = "sglang:num_running_reqs 4\n";
  for (const std::string& page : {waiting + text + running, text + running + waiting}) {
    const EngineMetrics metrics = ParseEngineMetrics(page);
    RC_ASSERT(metrics.load.waiting == 3.0);
    RC_ASSERT(metrics.load.running == 4.0);
  }
}

}  // namespace
}  // namespace sublet
