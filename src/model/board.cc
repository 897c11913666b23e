#include "model/board.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <utility>

#include "base/check.h"
#include "embedded/model_data.h"
#include "model/document.h"

namespace sublet {
namespace {

// Bounds on what a catalogue may claim. Placements are computed on 64-bit masks of memory units;
// the others are several times what any board has, so that a slip of the pen is noticed.
constexpr int kMemoryUnitsMax = 64;
constexpr int kProfilesMax = 64;
constexpr int kSmCountMax = 4096;
constexpr int kEnginesMax = 256;
constexpr std::int64_t kMemoryMibMax = std::int64_t{16} << 20;  // 16 TiB.
constexpr double kPriceMax = 10'000;

const std::vector<std::pair<std::string_view, Provenance>> kProvenanceWords = {
    {"measured", Provenance::kMeasured},
    {"vendor", Provenance::kVendor},
    {"unverified", Provenance::kUnverified},
};

Result<EngineCounts> ReadEngines(const Node& node) {
  EngineCounts engines;
  ObjectReader in(node, "engines");
  const Range range = {.min = 0, .max = kEnginesMax};
  in.Optional("copy", engines.copy, range);
  in.Optional("decoder", engines.decoder, range);
  in.Optional("encoder", engines.encoder, range);
  in.Optional("jpeg", engines.jpeg, range);
  in.Optional("ofa", engines.ofa, range);
  RETURN_IF_ERROR(in.Finish());
  return engines;
}

void ReadMemory(ObjectReader& in, Bytes& out) {
  std::int64_t mib = 0;
  in.Required("memory_mib", mib, {.min = 0, .max = static_cast<double>(kMemoryMibMax)});
  out = Bytes::FromMib(mib);
}

Result<MigProfile> ReadProfile(const Node& node) {
  MigProfile profile;
  ObjectReader in(node, "profile");
  in.Required("name", profile.name);
  in.Required("id", profile.id, {.min = 0, .max = 1'000'000});
  in.Required("compute_slices", profile.compute_slices, {.min = 1, .max = kMemoryUnitsMax});
  in.Required("size", profile.size, {.min = 1, .max = kMemoryUnitsMax});
  in.RequiredList("starts", profile.starts, [](const Node& start) {
    return ReadInteger(start, {.min = 0, .max = kMemoryUnitsMax - 1});
  });
  in.Required("max_instances", profile.max_instances, {.min = 1, .max = kMemoryUnitsMax});
  ReadMemory(in, profile.memory);
  in.Required("sm_count", profile.sm_count, {.min = 1, .max = kSmCountMax});
  in.Required("engines", profile.engines, ReadEngines);
  in.RequiredEnum("provenance", profile.provenance, kProvenanceWords);
  const std::string prefix = std::to_string(profile.compute_slices) + "g.";
  if (profile.name.compare(0, prefix.size(), prefix) != 0) {
    in.Reject("name", "a profile's name begins with its compute slices: " + profile.name);
  }
  if (profile.starts.empty() ||
      std::adjacent_find(profile.starts.begin(), profile.starts.end(), std::greater_equal<>()) !=
          profile.starts.end()) {
    in.Reject("starts", "starts must be ascending, and at least one");
  }
  RETURN_IF_ERROR(in.Finish());
  return profile;
}

bool Fits(const EngineCounts& part, const EngineCounts& whole) {
  return part.copy <= whole.copy && part.decoder <= whole.decoder &&
         part.encoder <= whole.encoder && part.jpeg <= whole.jpeg && part.ofa <= whole.ofa;
}

// What is wrong with a profile in the light of its board, or nothing.
std::optional<std::string> Contradiction(const Board& board, const MigProfile& profile) {
  if (profile.starts.back() + profile.size > board.memory_units) {
    return "a placement ends behind the last memory unit";
  }
  if (profile.compute_slices > board.compute_slices) return "more compute slices than the board";
  if (profile.memory > board.memory) return "more memory than the board";
  if (profile.sm_count > board.sm_count) return "more SMs than the board";
  if (!Fits(profile.engines, board.engines)) return "more engines than the board";
  return std::nullopt;
}

struct MigTable {
  int memory_units = 0;
  int compute_slices = 0;
  bool toggle_needs_reset = false;
  std::string driver_min;
  std::vector<MigProfile> profiles;
};

Result<MigTable> ReadMigTable(const Node& node) {
  MigTable mig;
  ObjectReader in(node, "mig");
  in.Required("memory_units", mig.memory_units, {.min = 1, .max = kMemoryUnitsMax});
  in.Required("compute_slices", mig.compute_slices, {.min = 1, .max = kMemoryUnitsMax});
  in.Required("toggle_needs_reset", mig.toggle_needs_reset);
  in.Required("driver_min", mig.driver_min);
  in.RequiredList("profiles", mig.profiles, ReadProfile);
  if (mig.profiles.empty() || mig.profiles.size() > kProfilesMax) {
    in.Reject("profiles", "a board with mig has between 1 and 64 profiles");
  }
  RETURN_IF_ERROR(in.Finish());
  return mig;
}

// Checks what no row can tell alone; `rows` is the list that board.profiles was read from.
Status CheckProfiles(const Board& board, const Node& rows) {
  std::set<std::string_view> names;
  std::set<int> ids;
  for (std::size_t i = 0; i < board.profiles.size(); ++i) {
    const MigProfile& profile = board.profiles[i];
    if (!names.insert(profile.name).second || !ids.insert(profile.id).second) {
      return FailAt(rows.items[i], "name or id is given twice on this board: " + profile.name);
    }
    if (const auto what = Contradiction(board, profile)) {
      return FailAt(rows.items[i], *what + ": " + profile.name);
    }
  }
  return {};
}

// "20B2": four hexadecimal digits.
Result<std::uint32_t> ReadPciId(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id, 16);
  if (text.size() != 4 || error != std::errc() || end != text.data() + text.size()) {
    return FailAt(node, "a PCI device id is four hexadecimal digits in quotes: " + text);
  }
  return id;
}

void ReadComputeCapability(ObjectReader& in, Board& board) {
  std::string text;
  in.Required("compute_capability", text);
  const char* const end = text.data() + text.size();
  const auto major = std::from_chars(text.data(), end, board.compute_capability_major);
  bool good = major.ec == std::errc() && major.ptr != end && *major.ptr == '.';
  if (good) {
    const auto minor = std::from_chars(major.ptr + 1, end, board.compute_capability_minor);
    good = minor.ec == std::errc() && minor.ptr == end;
  }
  if (!good) in.Reject("compute_capability", "a compute capability looks like \"9.0\": " + text);
}

Result<Board> ReadBoard(const Node& node) {
  Board board;
  ObjectReader in(node, "board");
  in.Required("name", board.name);
  in.Required("product", board.product);
  in.OptionalList("aliases", board.aliases, ReadString);
  in.OptionalList("pci_ids", board.pci_ids, ReadPciId);
  in.Required("architecture", board.architecture);
  ReadComputeCapability(in, board);
  ReadMemory(in, board.memory);
  in.Required("sm_count", board.sm_count, {.min = 1, .max = kSmCountMax});
  in.Required("memory_bandwidth_gbps", board.memory_bandwidth_gbps, {.min = 1, .max = 1e6});
  in.Required("dense_bf16_tflops", board.dense_bf16_tflops, {.min = 0.1, .max = 1e6});
  in.Required("engines", board.engines, ReadEngines);
  in.Required("price_usd_hour", board.price_usd_hour, {.min = 0, .max = kPriceMax});
  in.RequiredEnum("provenance", board.provenance, kProvenanceWords);
  MigTable mig;
  in.Optional("mig", mig, ReadMigTable);
  RETURN_IF_ERROR(in.Finish());
  board.memory_units = mig.memory_units;
  board.compute_slices = mig.compute_slices;
  board.mig_toggle_needs_reset = mig.toggle_needs_reset;
  board.mig_driver_min = mig.driver_min;
  board.profiles = std::move(mig.profiles);
  if (board.HasMig()) {
    RETURN_IF_ERROR(CheckProfiles(board, *node.Find("mig")->Find("profiles")));
  }
  return board;
}

Result<BoardCatalogue> ReadCatalogue(const Node& node) {
  BoardCatalogue catalogue;
  ObjectReader in(node, "board catalogue");
  in.Version(kBoardsVersion);
  in.RequiredList("boards", catalogue.boards, ReadBoard);
  RETURN_IF_ERROR(in.Finish());
  const Node& rows = *node.Find("boards");
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < catalogue.boards.size(); ++i) {
    if (!names.insert(catalogue.boards[i].name).second) {
      return FailAt(rows.items[i], "board is given twice: " + catalogue.boards[i].name);
    }
  }
  return catalogue;
}

char Lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

// Drivers of different ages write "NVIDIA A30" and "A30" for the same board.
std::string ProductKey(std::string_view product) {
  std::string key;
  for (const char c : product) key.push_back(Lower(c));
  constexpr std::string_view kVendor = "nvidia ";
  if (key.compare(0, kVendor.size(), kVendor) == 0) key.erase(0, kVendor.size());
  return key;
}

bool HasProduct(const Board& board, const std::string& key) {
  return ProductKey(board.product) == key ||
         std::any_of(board.aliases.begin(), board.aliases.end(),
                     [&](const std::string& alias) { return ProductKey(alias) == key; });
}

}  // namespace

std::string_view ProvenanceName(Provenance provenance) {
  for (const auto& [name, value] : kProvenanceWords) {
    if (value == provenance) return name;
  }
  CHECK(false);
  return {};
}

const MigProfile* Board::FindProfile(std::string_view profile_name) const {
  for (const MigProfile& profile : profiles) {
    if (profile.name == profile_name) return &profile;
  }
  return nullptr;
}

const MigProfile* Board::FindProfile(int profile_id) const {
  for (const MigProfile& profile : profiles) {
    if (profile.id == profile_id) return &profile;
  }
  return nullptr;
}

Result<const Board*> BoardCatalogue::Find(std::string_view name) const {
  std::vector<std::string_view> known;
  for (const Board& board : boards) {
    if (board.name == name) return &board;
    known.push_back(board.name);
  }
  return Fail(ErrorCode::kNotFound, "no such board: '" + std::string(name.substr(0, 64)) + "'",
              SuggestFor(name, known));
}

const Board* BoardCatalogue::Match(std::uint32_t pci_device_id,
                                   std::string_view product_name) const {
  std::vector<const Board*> by_id;
  for (const Board& board : boards) {
    const auto& ids = board.pci_ids;
    if (pci_device_id != 0 && std::find(ids.begin(), ids.end(), pci_device_id) != ids.end()) {
      by_id.push_back(&board);
    }
  }
  if (by_id.size() == 1) return by_id.front();
  const std::string key = ProductKey(product_name);
  for (const Board* board : by_id) {
    if (HasProduct(*board, key)) return board;
  }
  if (!by_id.empty()) return nullptr;
  for (const Board& board : boards) {
    if (HasProduct(board, key)) return &board;
  }
  return nullptr;
}

Result<BoardCatalogue> ParseBoards(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadCatalogue);
}

const BoardCatalogue& BuiltInBoards() {
  static const BoardCatalogue catalogue = [] {
    auto parsed = ParseBoards(embedded::boards_yaml, "data/boards.yaml");
    CHECK(parsed.has_value());
    return std::move(*parsed);
  }();
  return catalogue;
}

BoardCatalogue MergeBoards(const BoardCatalogue& base, const BoardCatalogue& overrides) {
  BoardCatalogue merged = base;
  for (const Board& board : overrides.boards) {
    const auto same = std::find_if(merged.boards.begin(), merged.boards.end(),
                                   [&](const Board& other) { return other.name == board.name; });
    if (same != merged.boards.end()) {
      *same = board;
    } else {
      merged.boards.push_back(board);
    }
  }
  return merged;
}

}  // namespace sublet
