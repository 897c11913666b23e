// model/board.h
//
// What is known about a GPU product before one is plugged in: memory, SMs, engines, MIG table,
// price.
//
// The catalogue is data/boards.yaml, compiled into the program; a user may override prices and add
// boards with a file of the same format. Every row says where its figures come from.
//
//   ASSIGN_OR_RETURN(const Board* board, BuiltInBoards().Find("a100-80gb"));
//   board->FindProfile("1g.10gb")->id    // 19: the name is resolved on this board
//
// A profile's name is not unique across boards: 1g.10gb is the double-memory profile (id 15, four
// of them) on A100-40 and the base profile (id 19, seven) on A100-80. So there is no lookup by name
// without a board.
//
// Thread safety: values; constant after construction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kBoardsVersion = "sublet.boards/v1";

// Where a figure comes from. kMeasured: read off such a board by NVML or nvidia-smi. kVendor: in
// the vendor's data sheet or guide. kUnverified: derived, or from a table that is not silicon.
enum class Provenance { kMeasured, kVendor, kUnverified };
std::string_view ProvenanceName(Provenance provenance);  // "measured", "vendor", "unverified"

// Numbers of fixed-function engines. On a MIG board they are handed out with the instances.
struct EngineCounts {
  int copy = 0;
  int decoder = 0;
  int encoder = 0;
  int jpeg = 0;
  int ofa = 0;

  friend bool operator==(const EngineCounts&, const EngineCounts&) = default;
};

// One row of `nvidia-smi mig -lgip`: a shape that a GPU instance can have on this board.
struct MigProfile {
  std::string name;         // "1g.10gb", "1g.10gb+me", "1g.24gb-me": as nvidia-smi writes it.
  int id = 0;               // The id that -lgip prints, not NVML's enum.
  int compute_slices = 0;   // The digit before "g".
  int size = 0;             // Memory units it covers, of the board's memory_units.
  std::vector<int> starts;  // Memory units where it may begin, ascending.
  int max_instances = 0;
  Bytes memory;
  int sm_count = 0;
  EngineCounts engines;
  Provenance provenance = Provenance::kUnverified;

  friend bool operator==(const MigProfile&, const MigProfile&) = default;
};

struct Board {
  std::string name;                    // "a100-80gb": the key, also of SUBLET_SIM presets.
  std::string product;                 // "NVIDIA A100-SXM4-80GB": what NVML reports.
  std::vector<std::string> aliases;    // Further product names that NVML reports for it.
  std::vector<std::uint32_t> pci_ids;  // PCI device ids (vendor 10DE), as 0x20B2.
  std::string architecture;            // "ampere", "hopper", ...
  int compute_capability_major = 0;
  int compute_capability_minor = 0;
  Bytes memory;
  int sm_count = 0;
  double memory_bandwidth_gbps = 0;  // 10^9 bytes a second, data sheet.
  double dense_bf16_tflops = 0;      // Data sheet, without sparsity; fp16 where there is no bf16.
  EngineCounts engines;
  Provenance provenance = Provenance::kUnverified;
  double price_usd_hour = 0;  // A list price to start from; users override it.

  // MIG; empty profiles mean that the board has none.
  int memory_units = 0;    // 8 on the seven-slice boards, 4 on A30, 12 on RTX PRO 6000.
  int compute_slices = 0;  // 7, 4, ...
  bool mig_toggle_needs_reset = false;  // Ampere: yes; Hopper and later: no.
  std::string mig_driver_min;           // "525": the first driver branch with MIG on this board.
  std::vector<MigProfile> profiles;

  bool HasMig() const { return !profiles.empty(); }
  // nullptr where this board doesn't offer it.
  const MigProfile* FindProfile(std::string_view profile_name) const;
  const MigProfile* FindProfile(int profile_id) const;
};

struct BoardCatalogue {
  std::vector<Board> boards;

  // Fails with kNotFound and proposes the closest names.
  Result<const Board*> Find(std::string_view name) const;
  // The board of a real GPU, by PCI device id (`pci_device_id` is 0x20B2, without the vendor) and,
  // where several boards share an id or the id is unknown (0), by product name; nullptr if unknown.
  const Board* Match(std::uint32_t pci_device_id, std::string_view product_name) const;
};

// Reads the catalogue's YAML (docs/formats/boards.md). `source` names the file in errors.
Result<BoardCatalogue> ParseBoards(std::string_view text, std::string_view source);

// The catalogue compiled into the program. CHECKs that it parses.
const BoardCatalogue& BuiltInBoards();

// Adds the boards of `overrides` to `base`; one of the same name replaces it.
BoardCatalogue MergeBoards(const BoardCatalogue& base, const BoardCatalogue& overrides);

}  // namespace sublet
