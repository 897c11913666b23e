// observe/status_table.h
//
// What `sublet ps` prints: a line for each share, and below it what isn't as it should be.
//
//   std::fputs(StatusTable(status, {.columns = 120, .colour = true}).c_str(), stdout);
//
// A limit that nobody enforces is marked with "!", and said below in words; a figure that the
// driver doesn't tell is "-" or "?".
//
// Thread safety: pure.
#pragma once

#include <string>

#include "model/node_status.h"

namespace sublet {

struct StatusTableStyle {
  int columns = 0;  // Of the terminal: wider tables lose their less important columns. 0: all.
  bool colour = false;
};

std::string StatusTable(const NodeStatus& status, const StatusTableStyle& style);

}  // namespace sublet
