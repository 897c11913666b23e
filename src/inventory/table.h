// inventory/table.h
//
// An Inventory for people: aligned tables, readable in 100 columns.
//
// Thread safety: no shared state.
#pragma once

#include <string>

#include "model/inventory.h"

namespace sublet {

struct TableStyle {
  bool colour = false;  // ANSI escapes: bold headings, red problems.
};

std::string InventoryTable(const Inventory& node, TableStyle style);

}  // namespace sublet
