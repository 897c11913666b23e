// `sublet logs`: what a replica printed.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "exe/node_client.h"
#include "exe/program.h"

namespace sublet {
namespace {

struct Flags {
  std::string name;
  std::string socket;
  std::optional<int> lines;
  bool follow = false;
};

Result<int> Logs(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  RETURN_IF_ERROR(node.Logs(flags.name, flags.lines, flags.follow, [&](std::string_view line) {
    fmt::print("{}\n", line);
    // Whoever reads along waits for it; and once nobody reads any more it is over.
    return !flags.follow || std::fflush(stdout) == 0;
  }));
  return 0;
}

}  // namespace

void AddLogsVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb =
      program.app.add_subcommand("logs", "Show what a replica, or a detached command, printed");
  verb->add_option("name", flags->name, "A replica as chat/0, or a share's id")->required();
  verb->add_flag("-f,--follow", flags->follow, "Go on with what comes");
  verb->add_option("-n,--lines", flags->lines, "Begin with the last N lines (default: all)")
      ->check(CLI::Range(0, 100'000))
      ->type_name("N");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Logs(*flags); }; });
}

}  // namespace sublet
