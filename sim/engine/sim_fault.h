// sim/engine/sim_fault.h
//
// What a simulated engine can be told to do wrong.
//
//   ASSIGN_OR_RETURN(const SimFault fault, ParseSimFault("reset;after=3;times=2"));
//
// By the header `x-sim-fault` of a request, for that request; or by POST /sim/fault with the same
// text as its body, for the next `times` requests (1; 0: all, until DELETE /sim/fault). Faults of
// answers:
//
//   status;code=503      An error in OpenAI's shape; with retry=SECONDS a Retry-After.
//   hang                 No answer, and nothing computed; the client's part to end it.
//   hang;after=3         Of a stream: nothing more after three tokens.
//   reset                RST instead of an answer; with after=3 after three tokens.
//   close                FIN instead of an answer, or in its middle: with no end to its chunks.
//   garbage              Bytes that aren't HTTP; with after=3 where a chunk should be.
//   slow;ms=200          Each token of a stream, or the whole answer, so much later.
//
// Faults of the KV events and of the engine itself, by POST only:
//
//   events-stop          No more events are sent, until DELETE /sim/fault.
//   events-drop;times=2  The next two batches are numbered and not sent: a gap, which a replay
//   fills. restart              As if the process had been killed and started: connections are
//   reset, the
//                        cache is empty, events are numbered from 0.
//
// Thread safety: pure.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

struct SimFault {
  enum class What {
    kStatus,
    kHang,
    kReset,
    kClose,
    kGarbage,
    kSlow,
    kEventsStop,
    kEventsDrop,
    kRestart
  };
  What what = What::kStatus;
  int after = 0;  // Tokens.
  int ms = 100;
  int code = 500;
  int retry_s = 0;  // 0: no Retry-After.
  int times = 1;    // 0: for ever.

  bool OfAnswer() const { return what < What::kEventsStop; }
};

// Fails with kInvalid, naming what is known.
Result<SimFault> ParseSimFault(std::string_view text);

}  // namespace sublet
