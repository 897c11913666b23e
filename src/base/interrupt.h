// base/interrupt.h
//
// Ctrl-C as a value: whoever works long asks whether to stop, and can wait for the question to be
// answered beside everything else it waits for.
//
//   const InterruptScope scope;            // In the verb, before anything is started.
//   ...
//   pollfd fds[] = {{socket, POLLIN, 0}, {InterruptFd(), POLLIN, 0}};
//   if (Interrupted()) return PartialResult();
//
// While a scope lives, SIGINT, SIGTERM and SIGHUP don't end the program; the first of them makes
// Interrupted() true for good. A second one ends it at once by its default action, unless it comes
// within half a second: a terminal and a wrapper often both send the same Ctrl-C. Ended so, nothing
// is cleaned up but what the kernel does: children started with a parent_death_signal
// (base/child_process.h) go too.
//
// Thread safety: Interrupted() and InterruptFd() from any thread; at most one scope at a time.
#pragma once

#include <csignal>

namespace sublet {

class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();  // Puts back what the signals did before, and forgets the interrupt.
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  struct sigaction before_[3];
};

bool Interrupted();
// The signal that interrupted; 0: none did.
int InterruptSignal();
// Readable from the first interrupt on; -1 while there is no scope, which poll() passes over.
int InterruptFd();

}  // namespace sublet
