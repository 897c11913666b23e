#include "engine/engine_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace sublet {
namespace {

constexpr EngineOptions kOneStep = {.prefill_tokens_per_second = 1000, .step_overhead_ms = 1};

std::vector<TokenId> Prompt() {
  return std::vector<TokenId>(1000, 7);
}

// A second of the engines takes a millisecond here.
TEST(EngineRunner, EndsStepsInTheOrderOfTheirTime) {
  boost::asio::io_context loop(1);
  EngineRunner runner(loop, 1000);
  auto gpu = std::make_shared<SharedGpu>();
  Engine one(kOneStep, gpu);
  Engine other(kOneStep, gpu);
  std::vector<std::int64_t> ends;
  std::int64_t longest_ns = 0;
  const auto on_step = [&](const EngineStep& step) {
    ends.push_back(step.end_ns);
    longest_ns = std::max(longest_ns, step.end_ns - step.begin_ns);
  };
  runner.Add(one, on_step);
  runner.Add(other, on_step);
  const std::int64_t now_ns = runner.now_ns();
  ASSERT_TRUE(one.Submit({.prompt = Prompt(), .output_tokens = 3}, now_ns));
  ASSERT_TRUE(other.Submit({.prompt = Prompt(), .output_tokens = 3}, now_ns));
  runner.Kick();
  loop.run();  // Until nothing is left to wait for.
  ASSERT_EQ(ends.size(), 6u);
  EXPECT_TRUE(std::is_sorted(ends.begin(), ends.end()));
  EXPECT_NEAR(static_cast<double>(longest_ns) / 1e9, 1.001 * 2 * SharedGpu::kComputeAlone, 0.01);
  EXPECT_GE(runner.now_ns(), ends.back());
}

TEST(EngineRunner, WaitsForNothingWhereNothingIsToDo) {
  boost::asio::io_context loop(1);
  EngineRunner runner(loop, 1);
  Engine engine(kOneStep);
  runner.Add(engine, [&](const EngineStep&) { ADD_FAILURE(); });
  ASSERT_TRUE(engine.Submit({.prompt = Prompt()}, runner.now_ns()));
  runner.Kick();
  runner.Remove(engine);
  runner.Kick();
  loop.run();
}

}  // namespace
}  // namespace sublet
