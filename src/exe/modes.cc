// `sublet modes`: the sharing modes side by side.
#include "plan/modes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "exe/program.h"
#include "exe/this_node.h"

namespace sublet {
namespace {

struct Flags {
  std::vector<std::string> boards;
  std::string node;
  bool json = false;
};

constexpr std::size_t kTextWidth = 96;

struct Subject {
  const Board* board;
  std::vector<ModeCheck> checks;  // Of this board's GPUs; empty without a node.
};

// The checks of a node, for the GPUs of one board.
std::vector<ModeCheck> ChecksFor(const Inventory& node, const std::string& board) {
  std::vector<ModeCheck> checks = node.modes;
  for (ModeCheck& check : checks) {
    std::erase_if(check.gpus, [&](int index) {
      return std::none_of(node.gpus.begin(), node.gpus.end(),
                          [&](const Gpu& gpu) { return gpu.index == index && gpu.board == board; });
    });
  }
  return checks;
}

// The boards that were asked for, else those of the node.
Result<std::vector<Subject>> SubjectsOf(const Flags& flags) {
  std::vector<Subject> subjects;
  for (const std::string& name : flags.boards) {
    ASSIGN_OR_RETURN(const Board* board, BuiltInBoards().Find(name));
    subjects.push_back({board, {}});
  }
  if (!subjects.empty()) return subjects;
  Result<Inventory> node = flags.node.empty() ? TakeThisNode({}) : LoadNode(flags.node);
  if (!node) {
    Error error = std::move(node).error();
    if (flags.node.empty()) error.hint = "name a board with --board, as in --board a100-80gb";
    return tl::unexpected<Error>(std::move(error));
  }
  for (const Gpu& gpu : node->gpus) {
    const bool known = std::any_of(subjects.begin(), subjects.end(),
                                   [&](const Subject& s) { return s.board->name == gpu.board; });
    if (known || gpu.board.empty()) continue;
    ASSIGN_OR_RETURN(const Board* board, BuiltInBoards().Find(gpu.board));
    subjects.push_back({board, ChecksFor(*node, gpu.board)});
  }
  if (subjects.empty()) {
    return Fail(ErrorCode::kNotFound, "no GPU of this node is of a board in the catalogue",
                "name a board with --board, as in --board a100-80gb");
  }
  return subjects;
}

void PrintField(const char* name, const std::string& text) {
  constexpr std::size_t kIndent = 15;
  std::string line = fmt::format("  {:<12} ", name);
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    if (line.size() + (end - begin) > kTextWidth) {
      fmt::print("{}\n", line);
      line.assign(kIndent, ' ');
    }
    line += text.substr(begin, end - begin) + " ";
    begin = end + 1;
  }
  fmt::print("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
}

void PrintModes(const Board& board, const std::vector<ModeFacts>& modes) {
  fmt::print("\n{}: the ways to share it\n\n", board.name);
  fmt::print("  {:<13} {:<9} {:>5}  {:<8} {:<8} {:<8} {:<9} {}\n", "", "isolation", "most",
             "memory", "faults", "compute", "bandwidth", "here");
  const auto word = [](const std::string& text) {
    return text.substr(0, text.find_first_of(":,"));
  };
  for (const ModeFacts& mode : modes) {
    const char* here = !mode.available ? "-" : *mode.available ? "yes" : "no";
    fmt::print("  {:<13} {:<9} {:>5}  {:<8} {:<8} {:<8} {:<9} {}\n", mode.name,
               IsolationName(mode.isolation), mode.partitions_max, word(mode.memory),
               word(mode.faults), word(mode.compute), word(mode.bandwidth), here);
  }
  for (const ModeFacts& mode : modes) {
    fmt::print("\n{}\n", mode.name);
    PrintField("memory", mode.memory);
    PrintField("faults", mode.faults);
    PrintField("compute", mode.compute);
    PrintField("bandwidth", mode.bandwidth);
    PrintField("at most", fmt::format("{}: {}", mode.partitions_max, mode.partitions_why));
    PrintField("costs", fmt::format("{} [{}]", mode.cost, mode.cost_source));
    PrintField("enforced by", mode.enforcer);
    PrintField("choose when", mode.choose_when);
    if (mode.available && !*mode.available) PrintField("not here", mode.unavailable_why);
  }
}

Result<int> ShowModes(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::vector<Subject> subjects, SubjectsOf(flags));
  nlohmann::ordered_json json{{"version", kModesVersion},
                              {"boards", nlohmann::ordered_json::array()}};
  for (const Subject& subject : subjects) {
    const Calibration calibration = ForBoard(DefaultCalibration(), *subject.board);
    const std::vector<ModeFacts> modes = CompareModes(*subject.board, calibration, subject.checks);
    json["boards"].push_back(ModesToJson(*subject.board, modes));
    if (!flags.json) PrintModes(*subject.board, modes);
  }
  if (flags.json) fmt::print("{}\n", json.dump(2));
  return 0;
}

}  // namespace

void AddModesVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "modes", "Compare the sharing modes of this node's boards: isolation, cost, enforcement");
  verb->add_option("--board", flags->boards, "A board of the catalogue instead of this node's")
      ->type_name("BOARD");
  verb->add_option("--node", flags->node, "A recorded node instead of this one")
      ->type_name("FILE")
      ->excludes("--board");
  verb->add_flag("--json", flags->json, "Print JSON for programs");
  verb->callback([&program, flags] { program.chosen = [flags] { return ShowModes(*flags); }; });
}

}  // namespace sublet
