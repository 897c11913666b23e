#include "engine/engine_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace sublet {

EngineRunner::EngineRunner(boost::asio::io_context& loop, double time_scale)
    : time_scale_(time_scale), start_ns_(MonotonicNanoseconds()), timer_(loop) {
  CHECK(time_scale > 0);
}

void EngineRunner::Add(Engine& engine, OnStep on_step) {
  CHECK(!advancing_);
  engines_.push_back({&engine, std::move(on_step)});
}

void EngineRunner::Remove(const Engine& engine) {
  CHECK(!advancing_);
  std::erase_if(engines_, [&](const Runs& runs) { return runs.engine == &engine; });
}

std::int64_t EngineRunner::now_ns() const {
  return static_cast<std::int64_t>(static_cast<double>(MonotonicNanoseconds() - start_ns_) *
                                   time_scale_);
}

// The engine whose step ends first, if it does by then.
EngineRunner::Runs* EngineRunner::Next(std::int64_t until_ns) {
  Runs* next = nullptr;
  std::int64_t best_ns = INT64_MAX;
  for (Runs& runs : engines_) {
    const auto end_ns = runs.engine->NextStepEnd();
    if (!end_ns || *end_ns > until_ns || *end_ns >= best_ns) continue;
    best_ns = *end_ns;
    next = &runs;
  }
  return next;
}

void EngineRunner::AdvanceAll() {
  advancing_ = true;
  const std::int64_t now = now_ns();
  while (Runs* const next = Next(now)) {
    next->engine->Advance(now, step_);
    next->on_step(step_);
  }
  advancing_ = false;
  Kick();
}

void EngineRunner::Kick() {
  if (advancing_) return;  // It looks by itself at the end.
  Runs* const next = Next(INT64_MAX);
  const std::int64_t wanted_ns = next != nullptr ? *next->engine->NextStepEnd() : INT64_MAX;
  if (wanted_ns == waits_for_ns_) return;
  waits_for_ns_ = wanted_ns;
  if (next == nullptr) {
    timer_.cancel();
    return;
  }
  const auto left_ns = static_cast<double>(wanted_ns - now_ns()) / time_scale_;
  timer_.expires_after(
      std::chrono::nanoseconds(static_cast<std::int64_t>(std::max(0.0, left_ns)) + 1));
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    waits_for_ns_ = INT64_MAX;
    AdvanceAll();
  });
}

}  // namespace sublet
