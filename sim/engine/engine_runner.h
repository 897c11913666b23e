// sim/engine/engine_runner.h
//
// Engines in real time: ends each one's steps when their time has come, on an event loop.
//
//   EngineRunner runner(loop, 1.0);
//   runner.Add(engine, [&](const EngineStep& step) { ... });
//   engine.Submit(request, runner.now_ns());
//   runner.Kick();                             // What ends next may have changed.
//
// All engines that share a GPU belong to one runner, which advances them in the order in which
// their steps end. A timer is late by some 50 us, and the steps lie where they would without it.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/engine.h"

namespace sublet {

class EngineRunner {
 public:
  using OnStep = std::function<void(const EngineStep& step)>;

  // `time_scale`: how many seconds of the engines pass in one of ours. REQUIRES: positive.
  EngineRunner(boost::asio::io_context& loop, double time_scale);

  // `engine` must be removed before it goes. `on_step` may submit, cancel and kick.
  void Add(Engine& engine, OnStep on_step);
  void Remove(const Engine& engine);

  // The engines' time.
  std::int64_t now_ns() const;
  double time_scale() const { return time_scale_; }
  void Kick();

 private:
  struct Runs {
    Engine* engine = nullptr;
    OnStep on_step;
  };

  Runs* Next(std::int64_t until_ns);
  void AdvanceAll();

  const double time_scale_;
  const std::int64_t start_ns_;
  boost::asio::steady_timer timer_;
  std::vector<Runs> engines_;
  std::int64_t waits_for_ns_ = INT64_MAX;  // Of the engines' time; the timer's.
  bool advancing_ = false;
  EngineStep step_;
};

}  // namespace sublet
