// sim/driver/ptx_entries.h
//
// The names of the kernels in a PTX text.
//
//   PtxEntries(".visible .entry scale(\n.param .u64 a)")   // {"scale"}
//
// Thread safety: pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sublet::sim {

// Empty where the text is no PTX: it has no ".version".
std::vector<std::string> PtxEntries(std::string_view text);

}  // namespace sublet::sim
