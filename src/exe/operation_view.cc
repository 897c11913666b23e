#include "exe/operation_view.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/clock.h"
#include "base/terminal.h"

namespace sublet {
namespace {

constexpr auto kFrame = std::chrono::milliseconds(100);
constexpr double kFramesPerSecond = 10;
constexpr std::array<std::string_view, 10> kSpinner = {"⠋", "⠙", "⠹", "⠸", "⠼",
                                                       "⠴", "⠦", "⠧", "⠇", "⠏"};
constexpr int kStepColumns = 28;
constexpr int kLiveRowsMax = 8;  // The rest is counted: what is done matters more than who waits.
constexpr int kColumnsUnknown = 80;
constexpr double kWorthSaying = 0.05;  // Seconds; a shorter time says nothing.

int TerminalColumns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumnsUnknown;
  return size.ws_col;
}

std::string TimeText(double seconds) {
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  return fmt::format("{} min {:02} s", static_cast<int>(seconds) / 60,
                     static_cast<int>(seconds) % 60);
}

// Cut at a whole character.
std::string Cut(std::string_view text, int columns) {
  std::string out;
  int used = 0;
  for (const char c : text) {
    const bool begins = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (begins && used == std::max(columns, 0)) break;
    used += begins ? 1 : 0;
    out += c;
  }
  return out;
}

// What others wrote must not steer the terminal.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace

std::vector<std::string> StepList::Take(const OperationStep& raw, double now_s, bool colour) {
  const OperationStep step{Printable(raw.step), raw.state, Printable(raw.message)};
  const Painter paint(colour);
  auto it = std::find_if(running_.begin(), running_.end(),
                         [&](const Running& each) { return each.step == step.step; });
  const bool stopped = step.state == "stopped";
  const bool done = step.state == "done" || stopped;
  if (!done && step.state != "failed") {
    if (it == running_.end()) {
      running_.push_back({step.step, step.message, now_s});
    } else {
      it->message = step.message;
    }
    return {};
  }
  double took_s = 0;
  if (it != running_.end()) {
    took_s = now_s - it->since_s;
    running_.erase(it);
  }
  ++(done ? done_ : failed_);
  const std::string words = step.message.empty() && stopped ? "stopped" : step.message;
  std::string line = fmt::format("{} {}", done ? paint.Good("✓") : paint.Bad("✗"),
                                 words.empty() ? step.step : PaddedRight(step.step, kStepColumns));
  if (!words.empty()) line += fmt::format("  {}", words);
  if (took_s >= kWorthSaying) line += paint.Dim(fmt::format("  {}", TimeText(took_s)));
  return {std::move(line)};
}

std::vector<std::string> StepList::Live(double now_s, int columns, int rows, bool colour) const {
  const Painter paint(colour);
  const auto frame = static_cast<std::size_t>(std::max(0.0, now_s) * kFramesPerSecond);
  const std::string_view spinner = kSpinner[frame % kSpinner.size()];
  const auto room = static_cast<std::size_t>(std::max(rows, 1));
  const std::size_t shown = running_.size() <= room ? running_.size() : room - 1;
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < shown; ++i) {
    const Running& each = running_[i];
    const std::string time = TimeText(now_s - each.since_s);
    const int text = columns - 2 - 2 - ColumnsOf(time) - 1;
    const std::string words =
        each.message.empty()
            ? each.step
            : fmt::format("{}  {}", PaddedRight(each.step, kStepColumns), each.message);
    lines.push_back(
        fmt::format("{} {}  {}", spinner, PaddedRight(Cut(words, text), text), paint.Dim(time)));
  }
  if (shown < running_.size()) {
    lines.push_back(Cut(fmt::format("{} and {} more", spinner, running_.size() - shown), columns));
  }
  return lines;
}

OperationView::OperationView()
    : terminal_(::isatty(STDERR_FILENO) != 0),
      colour_(terminal_ && std::getenv("NO_COLOR") == nullptr),
      began_ns_(MonotonicNanoseconds()) {
  if (terminal_) artist_ = std::thread([this] { Live(); });
}

OperationView::~OperationView() {
  Finish();
}

double OperationView::elapsed_s() const {
  return static_cast<double>(MonotonicNanoseconds() - began_ns_) / 1e9;
}

void OperationView::Take(const OperationStep& step) {
  const std::lock_guard lock(mutex_);
  const std::vector<std::string> lines = steps_.Take(step, elapsed_s(), colour_);
  if (terminal_) {
    Draw(lines);
  } else if (lines.empty()) {
    fmt::print(stderr, "  {} {}{}{}\n", step.state, step.step, step.message.empty() ? "" : ": ",
               step.message);
  } else {
    for (const std::string& line : lines) fmt::print(stderr, "{}\n", line);
  }
}

void OperationView::Finish() {
  if (!artist_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    Draw({});
  }
  wake_.notify_one();
  artist_.join();
}

// With the lock held. One write, so that nothing flickers.
void OperationView::Draw(const std::vector<std::string>& final_lines) {
  std::string out;
  if (drawn_ > 0) out += fmt::format("\x1b[{}A", drawn_);
  out += "\r\x1b[J";
  for (const std::string& line : final_lines) out += fmt::format("{}\n", line);
  drawn_ = 0;
  if (!finished_) {
    for (const std::string& line :
         steps_.Live(elapsed_s(), TerminalColumns(), kLiveRowsMax, colour_)) {
      out += fmt::format("{}\n", line);
      ++drawn_;
    }
  }
  std::fputs(out.c_str(), stderr);
  std::fflush(stderr);
}

void OperationView::Live() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kFrame, [this] { return finished_; })) {
    if (drawn_ > 0) Draw({});
  }
}

}  // namespace sublet
