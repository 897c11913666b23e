#include "exe/live_screen.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>

#include "base/check.h"
#include "base/clock.h"

namespace sublet {
namespace {

// The other page, no cursor, no wrapping of long lines; and back.
constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
constexpr std::string_view kLeave = "\x1b[?7h\x1b[?25h\x1b[?1049l";
constexpr std::array kEnding = {SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGABRT,
                                SIGSEGV, SIGBUS,  SIGFPE, SIGILL};

// What handlers touch.
termios terminal_before;
std::atomic<bool> drawn = false;    // The terminal is ours.
std::atomic<bool> changed = false;  // Another size, or back from a stop.

void WriteAll(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // The terminal is gone; nobody reads this.
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Only calls that a signal handler may make.
void PutBack() {
  if (!drawn.exchange(false)) return;
  WriteAll(kLeave);
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
}

void TakeOver() {
  termios raw = terminal_before;
  raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
  drawn = true;
  WriteAll(kEnter);
}

void OnEnding(int signal) {
  PutBack();
  changed = true;  // A stop that is over, or that the kernel refused, ends in another picture.
  // Blocked until this returns, and then it does what it does by default.
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void OnChange(int) {
  changed = true;
}

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;  // Without SA_RESTART: poll() returns.
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

bool LiveScreen::Available() {
  return ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
}

LiveScreen::LiveScreen() {
  CHECK(::tcgetattr(STDIN_FILENO, &terminal_before) == 0);
  for (const int signal : kEnding) Handle(signal, OnEnding);
  Handle(SIGTSTP, OnEnding);
  Handle(SIGCONT, OnChange);
  Handle(SIGWINCH, OnChange);
  TakeOver();
}

LiveScreen::~LiveScreen() {
  PutBack();
  for (const int signal : kEnding) ::signal(signal, SIG_DFL);
  for (const int signal : {SIGTSTP, SIGCONT, SIGWINCH}) ::signal(signal, SIG_DFL);
}

LiveScreen::Size LiveScreen::size() const {
  winsize window{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0) return {};
  return {.columns = window.ws_col, .rows = window.ws_row};
}

void LiveScreen::Draw(std::string_view frame) {
  std::string text = "\x1b[H";
  while (true) {
    const std::size_t end = frame.find('\n');
    // Erased before, because erasing behind a full line would take its last character.
    text += "\x1b[2K";
    text += frame.substr(0, end);
    if (end == std::string_view::npos) break;
    text += "\r\n";
    frame.remove_prefix(end + 1);
  }
  WriteAll(text);
}

LiveScreen::Event LiveScreen::Wait(double seconds) {
  Event event;
  const Deadline deadline = Deadline::In(seconds);
  while (true) {
    if (changed.exchange(false)) {
      if (!drawn) {  // Stopped and continued.
        Handle(SIGTSTP, OnEnding);
        TakeOver();
      }
      event.redraw = true;
      return event;
    }
    pollfd in{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&in, 1, deadline.PollMilliseconds());
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return event;
    std::array<char, 256> bytes;
    const ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (count > 0) {
      event.bytes.assign(bytes.data(), static_cast<std::size_t>(count));
    } else {
      event.closed = true;
    }
    return event;
  }
}

}  // namespace sublet
