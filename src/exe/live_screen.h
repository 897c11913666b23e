// exe/live_screen.h
//
// The terminal as a screen to draw on: raw keys in, whole frames out, and as it was afterwards.
//
//   LiveScreen screen;
//   screen.Draw(LiveFrame(status, view, screen.size()));
//   const LiveScreen::Event event = screen.Wait(1.0);
//
// While it lives, the terminal shows another page, without a cursor, and what is typed isn't shown.
// However the program ends, the terminal is put back: by the destructor, or by a handler of the
// signals that end a program (all but SIGKILL), which then end it as they would have. Ctrl-Z puts
// it back too, and `fg` draws it again.
//
// Thread safety: one at a time in a program, one thread.
#pragma once

#include <string>
#include <string_view>

namespace sublet {

class LiveScreen {
 public:
  // Whether standard input and output are a terminal.
  static bool Available();

  // REQUIRES: Available().
  LiveScreen();
  ~LiveScreen();
  LiveScreen(const LiveScreen&) = delete;
  LiveScreen& operator=(const LiveScreen&) = delete;

  struct Size {
    int columns = 80;
    int rows = 24;
  };
  Size size() const;

  // Replaces as many lines as the frame has. They are separated by newlines; one that is too long
  // is cut.
  void Draw(std::string_view frame);

  struct Event {
    std::string bytes;    // What was typed.
    bool redraw = false;  // The screen has another size, or was away.
    bool closed = false;  // There is no terminal any more.
  };
  // Returns with the first event, or with none after that time.
  Event Wait(double seconds);
};

}  // namespace sublet
