#include "exe/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "exe/program.h"

namespace sublet {
namespace {

constexpr int kBarMax = 30;
constexpr int kWidthUnknown = 80;

int TerminalWidth() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kWidthUnknown;
  return size.ws_col;
}

std::string TimeLeft(double seconds) {
  const auto whole = static_cast<int>(std::ceil(std::max(seconds, 0.0)));
  return whole < 100 ? fmt::format("{} s left", whole)
                     : fmt::format("{} min left", (whole + 59) / 60);
}

std::string Repeated(std::string_view what, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += what;
  return out;
}

}  // namespace

std::string ProgressText(double done, double seconds_left, std::string_view now, int width,
                         bool colour) {
  const std::string left = TimeLeft(seconds_left);
  const int bar = std::clamp(width / 3, 5, kBarMax);
  const int full = static_cast<int>(std::lround(std::clamp(done, 0.0, 1.0) * bar));
  // Bar, " 100 %", two gaps of two, and one column less than the terminal, which would wrap.
  const int room = width - bar - 6 - 4 - static_cast<int>(left.size()) - 1;
  const std::string_view shown = now.substr(0, static_cast<std::size_t>(std::max(room, 0)));
  return fmt::format("{}{}{}{}{}{:>4} %  {:<{}}  {}", colour ? "\x1b[32m" : "", Repeated("━", full),
                     colour ? "\x1b[2m" : "", Repeated("─", bar - full), colour ? "\x1b[0m" : "",
                     std::lround(done * 100), shown, std::max(room, 0), left);
}

ProgressBar::ProgressBar() : terminal_(::isatty(STDERR_FILENO) != 0) {}

void ProgressBar::Show(double done, double seconds_left, std::string_view now) {
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K",
               ProgressText(done, seconds_left, now, TerminalWidth(), WantsColour()));
    std::fflush(stderr);
    shown_ = true;
    return;
  }
  // For a log, what is done now; its trials would be too many lines.
  const std::string step(now.substr(0, now.rfind(": ")));
  if (step == last_) return;
  last_ = step;
  fmt::print(stderr, "{:3.0f} %  {}\n", done * 100, step);
}

void ProgressBar::Clear() {
  if (shown_) fmt::print(stderr, "\r\x1b[K");
  shown_ = false;
}

}  // namespace sublet
