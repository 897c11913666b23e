#include "plan/mig_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace sublet {
namespace {

// A command line or file that asks for more instances than any GPU has units is a slip; counts are
// kept small enough that their sums can't overflow.
constexpr std::size_t kNamesMax = 4096;

const MigProfile& ProfileAt(const Board& board, int index) {
  return board.profiles[static_cast<std::size_t>(index)];
}

// The boards that offer a profile of this name: "a100-40gb, h100-80gb".
std::string BoardsWith(const BoardCatalogue& catalogue, std::string_view name) {
  std::vector<std::string_view> boards;
  for (const Board& board : catalogue.boards) {
    if (board.FindProfile(name) != nullptr) boards.push_back(board.name);
  }
  return fmt::format("{}", fmt::join(boards, ", "));
}

Result<ProfileCounts> Resolve(const BoardCatalogue& catalogue, const GeometryTable& table,
                              const std::vector<std::string>& names) {
  if (names.size() > kNamesMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("more than {} instances: {}", kNamesMax, names.size()));
  }
  for (const std::string& name : names) {
    const auto parsed = ParseMigProfileName(name);
    if (!parsed || parsed->gpu_instance == name) continue;
    return Fail(ErrorCode::kUnsupported,
                fmt::format("{} is a compute instance, a part of a GPU instance {}", name,
                            parsed->gpu_instance),
                fmt::format("check {}: up to {} compute instances of {} share one of them",
                            parsed->gpu_instance,
                            parsed->gpu_instance_slices / parsed->compute_instance_slices, name));
  }
  auto counts = table.CountsOf(names);
  if (counts || counts.error().code != ErrorCode::kNotFound) return counts;
  Error error = std::move(counts).error();
  for (const std::string& name : names) {
    if (table.board().FindProfile(name) != nullptr) continue;
    if (const std::string boards = BoardsWith(catalogue, name); !boards.empty()) {
      std::vector<std::string_view> offered;
      for (const MigProfile& profile : table.board().profiles) offered.push_back(profile.name);
      error.hint = fmt::format("{} is a profile of {}; {} has {}", name, boards, table.board().name,
                               fmt::join(offered, ", "));
    }
    break;
  }
  return tl::unexpected<Error>(std::move(error));
}

// The most instances of `counts` that fit together; of those the ones that cover the most units.
ProfileCounts LargestPart(const GeometryTable& table, const ProfileCounts& counts) {
  ProfileCounts best = table.Multisets().front();
  std::pair<int, int> best_size{-1, -1};
  for (const ProfileCounts& part : table.Multisets()) {
    std::pair<int, int> size{0, 0};
    bool inside = true;
    for (std::size_t p = 0; p < part.size() && inside; ++p) {
      inside = part[p] <= counts[p];
      size.first += part[p];
      size.second += part[p] * table.board().profiles[p].size;
    }
    if (inside && size > best_size) best = part, best_size = size;
  }
  return best;
}

MigQuestion Answer(const GeometryTable& table, ProfileCounts counts) {
  MigQuestion question;
  question.profiles = std::move(counts);
  if (const Geometry* where = table.Place(question.profiles)) {
    question.where = *where;
    question.room = table.Room(*where);
  } else {
    question.reason = table.WhyNot(question.profiles);
    question.largest_part = LargestPart(table, question.profiles);
  }
  return question;
}

bool IsFor(const MigConfigEntry& entry, const Board& board) {
  constexpr std::uint32_t kVendorNvidia = 0x10DE;
  if (entry.device_filter.empty()) return true;
  return std::any_of(
      entry.device_filter.begin(), entry.device_filter.end(), [&](const MigDeviceFilter& filter) {
        return (filter.pci_device_id & 0xFFFF) == kVendorNvidia &&
               std::find(board.pci_ids.begin(), board.pci_ids.end(), filter.pci_device_id >> 16) !=
                   board.pci_ids.end();
      });
}

// A profile among the entry's that only other boards have; nullptr where there is none.
const std::string* ForeignProfile(const BoardCatalogue& catalogue, const Board& board,
                                  const MigConfigEntry& entry) {
  for (const auto& [name, count] : entry.mig_devices) {
    if (board.FindProfile(name) == nullptr && !BoardsWith(catalogue, name).empty()) return &name;
  }
  return nullptr;
}

// Answers what one label asks of the board, or says why it asks nothing. `chosen`: the user asked
// for this very label.
Status CheckLabel(const BoardCatalogue& catalogue, const GeometryTable& table,
                  const MigConfigLabel& label, bool chosen, MigCheck& check) {
  for (std::size_t i = 0; i < label.entries.size(); ++i) {
    const MigConfigEntry& entry = label.entries[i];
    const std::string place = fmt::format("{}, entry {}", label.name, i);
    if (!IsFor(entry, table.board())) {
      check.skipped.push_back(place + ": its filter names other boards");
      continue;
    }
    const std::string* foreign = ForeignProfile(catalogue, table.board(), entry);
    if (!chosen && foreign != nullptr) {
      check.skipped.push_back(fmt::format("{}: {} is a profile of {}", place, *foreign,
                                          BoardsWith(catalogue, *foreign)));
      continue;
    }
    std::vector<std::string> names;
    for (const auto& [name, count] : entry.mig_devices) {
      names.insert(names.end(), static_cast<std::size_t>(count), name);
    }
    auto counts = Resolve(catalogue, table, names);
    if (!counts) return tl::unexpected<Error>(std::move(counts).error().Prefixed(place));
    MigQuestion question = Answer(table, std::move(*counts));
    question.label = label.name;
    question.entry = static_cast<int>(i);
    check.questions.push_back(std::move(question));
  }
  return {};
}

// The memory units as a ruler, and under it each instance as long as it is:
//
//   unit  0       1       2       3       4
//         |1g.10gb|1g.10gb|2g.20gb        |...
std::string Draw(const Board& board, const Geometry& geometry) {
  std::size_t width = 4;  // Columns for a unit, with the bar at its left.
  for (const PlacedInstance& instance : geometry) {
    const MigProfile& profile = ProfileAt(board, instance.profile);
    const auto size = static_cast<std::size_t>(profile.size);
    width = std::max(width, (profile.name.size() + 1 + size - 1) / size);
  }
  const auto columns = [&](int units) { return width * static_cast<std::size_t>(units); };
  std::string ruler;
  for (int unit = 0; unit < board.memory_units; ++unit) {
    ruler += fmt::format("{:<{}}", unit, width);
  }
  ruler.erase(ruler.find_last_not_of(' ') + 1);
  std::string bars;
  int unit = 0;
  for (const PlacedInstance& instance : geometry) {
    for (; unit < instance.start; ++unit) bars += fmt::format("|{:<{}}", " -", width - 1);
    const MigProfile& profile = ProfileAt(board, instance.profile);
    bars += fmt::format("|{:<{}}", profile.name, columns(profile.size) - 1);
    unit = instance.start + profile.size;
  }
  for (; unit < board.memory_units; ++unit) bars += fmt::format("|{:<{}}", " -", width - 1);
  const bool has_free = bars.find("| -") != std::string::npos;
  return fmt::format("  unit  {}\n        {}|{}\n", ruler, bars, has_free ? "  (- is free)" : "");
}

std::string EnginesText(const EngineCounts& engines) {
  std::vector<std::string> parts;
  const auto add = [&](int count, const char* name) {
    if (count > 0) parts.push_back(fmt::format("{} {}", count, name));
  };
  add(engines.copy, "copy");
  add(engines.decoder, "decoder");
  add(engines.encoder, "encoder");
  add(engines.jpeg, "jpeg");
  add(engines.ofa, "ofa");
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string Table(const Board& board, const Geometry& geometry) {
  std::size_t width = 7;
  for (const PlacedInstance& instance : geometry) {
    width = std::max(width, ProfileAt(board, instance.profile).name.size());
  }
  std::string text = fmt::format("  {:<{}}  {:>3}  {:>5}  {:>4}  {:>10}  {:>4}  {}\n", "profile",
                                 width, "id", "start", "size", "memory", "SMs", "engines");
  for (const PlacedInstance& instance : geometry) {
    const MigProfile& profile = ProfileAt(board, instance.profile);
    text += fmt::format("  {:<{}}  {:>3}  {:>5}  {:>4}  {:>10}  {:>4}  {}\n", profile.name, width,
                        profile.id, instance.start, profile.size,
                        fmt::format("{} MiB", profile.memory.mib()), profile.sm_count,
                        EnginesText(profile.engines));
  }
  return text;
}

std::string RoomText(const Board& board, const ProfileCounts& room) {
  std::vector<std::string> parts;
  for (std::size_t p = 0; p < room.size(); ++p) {
    if (room[p] > 0) parts.push_back(fmt::format("{}x {}", room[p], board.profiles[p].name));
  }
  return parts.empty() ? "nothing" : fmt::format("{}", fmt::join(parts, " or "));
}

std::string CreateCommand(const Board& board, const Geometry& geometry) {
  std::vector<std::string> tuples;
  for (const PlacedInstance& instance : geometry) {
    tuples.push_back(fmt::format("{}:{}", ProfileAt(board, instance.profile).id, instance.start));
  }
  return fmt::format("nvidia-smi mig -cgi {} -C", fmt::join(tuples, ","));
}

std::string QuestionText(const Board& board, const MigQuestion& question) {
  const std::string label = question.label.empty() ? "" : question.label + ": ";
  const std::string what = DescribeCounts(board, question.profiles);
  if (!question.where) {
    return fmt::format("{}: {}{} can't be placed\n  why: {}\n  largest part that fits: {}\n",
                       board.name, label, what, question.reason,
                       DescribeCounts(board, question.largest_part));
  }
  if (question.where->empty()) {
    return fmt::format("{}: {}no MIG instances are asked for\n", board.name, label);
  }
  std::string text = fmt::format("{}: {}{} can be placed\n", board.name, label, what);
  text += "\n" + Draw(board, *question.where) + "\n" + Table(board, *question.where);
  text += fmt::format("\n  fits beside it: {}\n  create with: {}\n", RoomText(board, question.room),
                      CreateCommand(board, *question.where));
  return text;
}

nlohmann::ordered_json CountsJson(const Board& board, const ProfileCounts& counts) {
  auto json = nlohmann::ordered_json::object();
  for (std::size_t p = 0; p < counts.size(); ++p) {
    if (counts[p] > 0) json[board.profiles[p].name] = counts[p];
  }
  return json;
}

void AddQuestion(const Board& board, const MigQuestion& question, nlohmann::ordered_json& json) {
  json["placeable"] = question.where.has_value();
  json["profiles"] = CountsJson(board, question.profiles);
  if (!question.where) {
    json["reason"] = question.reason;
    json["largest_part"] = CountsJson(board, question.largest_part);
    return;
  }
  auto& placements = json["placements"] = nlohmann::ordered_json::array();
  for (const PlacedInstance& instance : *question.where) {
    const MigProfile& profile = ProfileAt(board, instance.profile);
    placements.push_back({{"profile", profile.name},
                          {"profile_id", profile.id},
                          {"start", instance.start},
                          {"size", profile.size},
                          {"memory_mib", profile.memory.mib()},
                          {"sm_count", profile.sm_count}});
  }
  json["room"] = CountsJson(board, question.room);
}

}  // namespace

bool MigCheck::placeable() const {
  return std::all_of(questions.begin(), questions.end(),
                     [](const MigQuestion& question) { return question.where.has_value(); });
}

Result<MigCheck> CheckProfiles(const BoardCatalogue& catalogue, const Board& board,
                               const std::vector<std::string>& names) {
  ASSIGN_OR_RETURN(const GeometryTable table, GeometryTable::Build(board));
  ASSIGN_OR_RETURN(ProfileCounts counts, Resolve(catalogue, table, names));
  MigCheck check;
  check.board = &board;
  check.questions.push_back(Answer(table, std::move(counts)));
  return check;
}

Result<MigCheck> CheckConfig(const BoardCatalogue& catalogue, const Board& board,
                             const MigConfig& config, const std::optional<std::string>& label) {
  ASSIGN_OR_RETURN(const GeometryTable table, GeometryTable::Build(board));
  MigCheck check;
  check.board = &board;
  check.from_file = true;
  if (label) {
    ASSIGN_OR_RETURN(const MigConfigLabel* const one, config.Find(*label));
    RETURN_IF_ERROR(CheckLabel(catalogue, table, *one, true, check));
  } else {
    for (const MigConfigLabel& one : config.labels) {
      RETURN_IF_ERROR(CheckLabel(catalogue, table, one, false, check));
    }
  }
  if (check.questions.empty()) {
    return Fail(ErrorCode::kNotFound, fmt::format("nothing to check for {}: {}", board.name,
                                                  fmt::join(check.skipped, "; ")));
  }
  return check;
}

std::string MigCheckToText(const MigCheck& check) {
  std::string text;
  for (const MigQuestion& question : check.questions) {
    if (!text.empty()) text += "\n";
    text += QuestionText(*check.board, question);
  }
  if (!check.skipped.empty()) text += "\n";
  for (const std::string& skipped : check.skipped) {
    text += fmt::format("skipped {}\n", skipped);
  }
  return text;
}

nlohmann::ordered_json MigCheckToJson(const MigCheck& check) {
  nlohmann::ordered_json json = {{"version", kMigCheckVersion}, {"board", check.board->name}};
  if (!check.from_file) {
    AddQuestion(*check.board, check.questions.front(), json);
    return json;
  }
  json["placeable"] = check.placeable();
  auto& labels = json["labels"] = nlohmann::ordered_json::array();
  for (const MigQuestion& question : check.questions) {
    nlohmann::ordered_json one = {{"label", question.label}, {"entry", question.entry}};
    AddQuestion(*check.board, question, one);
    labels.push_back(std::move(one));
  }
  json["skipped"] = check.skipped;
  return json;
}

}  // namespace sublet
