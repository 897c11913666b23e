// exe/demo_load.h
//
// People who talk with a model, many at a time: the load of `sublet route --demo`.
//
//   DemoLoad load(port, "demo", {.conversations = 24, .seed = 1});
//   load.Start();                       // On a thread of its own.
//   const LoadTally tally = load.Look();
//   load.Stop();
//
// Each sends all that was said before with every turn, as chat clients do, waits for the whole
// answer, thinks, and asks again; after so many turns another one begins. What is said follows from
// the seed, so that two loads with one seed ask the same questions.
//
// Thread safety: all calls, from one thread; the load runs on another.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sublet {

struct LoadOptions {
  int conversations = 24;
  int turns = 8;
  int context_words = 600;  // Of what the model is told before the first question.
  int turn_words = 60;
  int answer_tokens = 24;
  double think_s = 0.6;  // On average.
  std::uint64_t seed = 1;
};

struct LoadTally {
  std::int64_t served = 0;
  std::int64_t failed = 0;
  std::int64_t prompt_tokens = 0;  // As the answers' usage says.
  std::int64_t cached_tokens = 0;
  std::vector<double> ttft_ms;  // Of each answer, in their order.
  struct Replica {
    std::int64_t requests = 0;
    std::int64_t prompt_tokens = 0;
    std::int64_t cached_tokens = 0;
  };
  std::map<std::string, Replica> replicas;  // By the answers' x-sublet-replica.
  std::string last_error;
};

class DemoLoad {
 public:
  DemoLoad(int port, std::string model, const LoadOptions& options);
  ~DemoLoad();
  DemoLoad(const DemoLoad&) = delete;
  DemoLoad& operator=(const DemoLoad&) = delete;

  void Start();
  // Ends what is under way; it isn't counted.
  void Stop();
  LoadTally Look() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
