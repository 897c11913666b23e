// exe/progress_bar.h
//
// How far a long command has come, on standard error: a bar that is redrawn in place where somebody
// watches, a line for each new step where the output goes to a file.
//
//   ProgressBar line;
//   line.Show(0.34, 41, "MPS, 10 % of the SMs each: transformer x16");
//   ━━━━━━━━━━──────────────────── 34 %  MPS, 10 % of the SMs each: transformer x16     41 s left
//
// Thread safety: one thread at a time.
#pragma once

#include <string>
#include <string_view>

namespace sublet {

class ProgressBar {
 public:
  ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() { Clear(); }

  // `done` is 0 to 1.
  void Show(double done, double seconds_left, std::string_view now);
  // Takes the line away, so that what follows starts at the margin.
  void Clear();

 private:
  const bool terminal_;
  bool shown_ = false;
  std::string last_;
};

// The line as it is drawn, `width` columns at most.
std::string ProgressText(double done, double seconds_left, std::string_view now, int width,
                         bool colour);

}  // namespace sublet
