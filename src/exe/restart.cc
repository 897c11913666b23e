// `sublet restart`: a replica's process ends, and begins anew in the same share.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "exe/node_client.h"
#include "exe/program.h"

namespace sublet {
namespace {

struct Flags {
  std::string replica;
  std::string socket;
};

Result<int> Restart(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  RETURN_IF_ERROR(node.Restart(flags.replica));
  fmt::print("{} restarts\n", flags.replica);
  return 0;
}

}  // namespace

void AddRestartVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb =
      program.app.add_subcommand("restart", "End a replica's process and start it anew");
  verb->add_option("replica", flags->replica, "As chat/0")->required();
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return Restart(*flags); }; });
}

}  // namespace sublet
