// exe/operation_view.h
//
// What an operation of the node does, as it goes, on standard error: in place where somebody
// watches, a line for each news where the output goes to a file.
//
//   OperationView view;
//   node.PutPlan(plan, folder, [&](const OperationStep& step) { view.Take(step); }, {});
//
//   ✓ domain gpu0-shop                                0.3 s
//   ✓ replica search/0                                1.2 s
//   ⠼ replica chat/0     waiting for http /health     3.4 s
//
// At a terminal a thread of its own keeps the last lines alive, so that a step which takes long is
// seen to take long.
//
// Thread safety: one thread at a time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "exe/node_client.h"

namespace sublet {

// The steps seen so far; pure.
class StepList {
 public:
  // Returns the lines that are final with this: of a step that is done or has failed.
  // `now_s` counts from the operation's start.
  std::vector<std::string> Take(const OperationStep& step, double now_s, bool colour);

  // The lines of the steps under way, at most `rows` of at most `columns` columns.
  std::vector<std::string> Live(double now_s, int columns, int rows, bool colour) const;

  int done() const { return done_; }
  int failed() const { return failed_; }

 private:
  struct Running {
    std::string step;
    std::string message;
    double since_s = 0;
  };
  std::vector<Running> running_;  // In the order in which they began.
  int done_ = 0;
  int failed_ = 0;
};

class OperationView {
 public:
  OperationView();
  ~OperationView();
  OperationView(const OperationView&) = delete;
  OperationView& operator=(const OperationView&) = delete;

  void Take(const OperationStep& step);
  // Takes the live lines away, so that what follows starts at the margin.
  void Finish();

  double elapsed_s() const;
  const StepList& steps() const { return steps_; }

 private:
  void Draw(const std::vector<std::string>& final_lines);
  void Live();

  const bool terminal_;
  const bool colour_;
  const std::int64_t began_ns_;
  std::mutex mutex_;
  std::condition_variable wake_;
  StepList steps_;
  int drawn_ = 0;  // Live lines on the terminal.
  bool finished_ = false;
  std::thread artist_;  // Only at a terminal.
};

}  // namespace sublet
