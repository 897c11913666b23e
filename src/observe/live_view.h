// observe/live_view.h
//
// One frame of `sublet top`: each GPU as a bar of its shares, with what they really use.
//
//   LiveView view;                                       // Sort order, how far it is scrolled.
//   const std::string frame = LiveFrame(status, view, {.columns = 120, .rows = 40, .colour =
//   true}); view = AfterKey(view, LiveKey::kSortMemory, status);
//
// The bar is as wide as the GPU's memory: each share has a part as wide as what is booked for it,
// filled as far as it is used. Below it stands a line for each share. At the end: MPS domains, and
// whatever isn't well. A frame has exactly `rows` lines of at most `columns` columns, without a
// newline at the end; what doesn't fit is counted ("12 more").
//
// Thread safety: pure functions of values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/node_status.h"

namespace sublet {

enum class LiveSort { kPlace, kMemory, kSm, kTenant, kUptime };

struct LiveView {
  LiveSort sort = LiveSort::kPlace;  // As in the status: replicas by name, then the others.
  int first = 0;                     // Lines of the body that are scrolled past.
};

struct LiveSize {
  int columns = 80;  // 60 at least; less is treated as 60 and cut.
  int rows = 24;     // 0: as many as it takes, for output that isn't a terminal.
  bool colour = false;
};

enum class LiveKey {
  kUp,
  kDown,
  kPageUp,
  kPageDown,
  kHome,
  kSortPlace,
  kSortMemory,
  kSortSm,
  kSortTenant,
  kSortUptime
};

// What a terminal in raw mode has sent, as far as it means something here: arrows and pages (or k,
// j, b, space), home (or g), n, m, s, t, u for the orders, q.
struct LiveInput {
  std::vector<LiveKey> keys;
  bool quit = false;
};
LiveInput ParseLiveInput(std::string_view bytes);

std::string LiveFrame(const NodeStatus& status, const LiveView& view, const LiveSize& size);

// The view after a key, kept within what there is to see.
LiveView AfterKey(LiveView view, LiveKey key, const NodeStatus& status, const LiveSize& size);

}  // namespace sublet
