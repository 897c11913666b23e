// `sublet events`: what happened on this node.
#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/terminal.h"
#include "exe/node_client.h"
#include "exe/program.h"

namespace sublet {
namespace {

constexpr int kSubjectColumns = 24;
constexpr int kWhatColumns = 12;

struct Flags {
  std::string socket;
  std::int64_t after = 0;
  bool follow = false;
  bool json = false;
};

void Print(const NodeEvent& event, bool json) {
  if (json) {
    const auto replace = nlohmann::ordered_json::error_handler_t::replace;
    fmt::print("{}\n", NodeEventToJson(event).dump(-1, ' ', false, replace));
    return;
  }
  fmt::print("{}  {}  {}  {}\n", event.time,
             PaddedRight(fmt::format("{} {}", event.subject_kind, event.subject), kSubjectColumns),
             PaddedRight(event.what, kWhatColumns), event.message);
}

Result<int> Events(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  RETURN_IF_ERROR(node.Events(flags.after, flags.follow, [&](const NodeEvent& event) {
    Print(event, flags.json);
    return !flags.follow || std::fflush(stdout) == 0;
  }));
  return 0;
}

}  // namespace

void AddEventsVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "events", "Show what happened: shares granted, replicas ended, faults, recoveries");
  verb->add_flag("-f,--follow", flags->follow, "Go on with what comes");
  verb->add_option("--after", flags->after, "Only those after the event of this number")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  verb->add_flag("--json", flags->json, "Print each as a line of JSON");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Events(*flags); }; });
}

}  // namespace sublet
