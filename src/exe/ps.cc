// `sublet ps`: who holds which part of a GPU.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "exe/node_client.h"
#include "exe/program.h"
#include "observe/status_table.h"

namespace sublet {
namespace {

struct Flags {
  std::string socket;
  bool json = false;
  bool all = false;
};

// 0 where the output isn't a terminal: then nothing is left out.
int OutputColumns() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

Result<int> Ps(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  ASSIGN_OR_RETURN(NodeStatus status, node.ReadStatus());
  if (flags.json) {
    fmt::print("{}\n", NodeStatusToJson(status).dump(2));
    return 0;
  }
  std::size_t stopped = 0;
  if (!flags.all) {
    stopped = std::erase_if(status.shares, [](const ShareStatus& share) {
      return share.state == ShareState::kStopped;
    });
  }
  fmt::print("{}", StatusTable(status, {.columns = OutputColumns(), .colour = WantsColour()}));
  if (stopped > 0) fmt::print(stderr, "sublet: {} stopped: sublet ps --all shows them\n", stopped);
  return 0;
}

}  // namespace

void AddPsVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "ps", "Show the shares of this machine's GPUs: who, where, how much of it is used");
  verb->add_flag("--json", flags->json, "Print the node's whole status as JSON");
  verb->add_flag("-a,--all", flags->all, "Also those that ended and won't be started again");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Ps(*flags); }; });
}

}  // namespace sublet
