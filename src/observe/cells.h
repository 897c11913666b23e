// observe/cells.h
//
// Texts of a fixed width, for tables and frames on a terminal. Internal to the module.
//
//   Cell(share.name, 12)           // "chat/0      ", or "a-very-long…"
//   DurationText(11520)            // "3h12"
//   MemoryText(9_GiB, 10_GiB)      // "9.0/10.0 GiB"
//
// What users have named may contain anything; Printable() takes out what would steer a terminal.
// Every cell is printable.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "model/share.h"

namespace sublet {

// Control characters, and bytes that aren't UTF-8, become '?'.
std::string Printable(std::string_view text);

// Cut to `width` columns with "…" at the end, or filled up with spaces.
std::string Cell(std::string_view text, int width);
// The same, with the spaces in front.
std::string RightCell(std::string_view text, int width);
// Cut, but not filled up.
std::string CutText(std::string_view text, int width);

// "45s", "12m30", "3h12", "12d04h"; "-" where it isn't known.
std::string DurationText(std::optional<double> seconds);

// "9.0/10.0 GiB", "512/600 MiB", "9.0 GiB" without a limit; "?" for what isn't known.
std::string MemoryText(std::optional<Bytes> used, std::optional<Bytes> limit);

// "12 %", "0.4 %"; "-" where it isn't known.
std::string PercentText(std::optional<double> percent);

// Whether somebody makes a share's limit on "memory" or "sm" real.
bool IsEnforced(const Share& share, std::string_view what);

}  // namespace sublet
