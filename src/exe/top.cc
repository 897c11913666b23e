// `sublet top`: each GPU as a bar of its shares, with what they use of it, live.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "exe/live_screen.h"
#include "exe/node_client.h"
#include "exe/program.h"
#include "observe/live_view.h"

namespace sublet {
namespace {

constexpr int kColumnsOfAFile = 120;

struct Flags {
  std::string socket;
  double interval_s = 1;
  bool once = false;
};

// What is on the screen, and the node that it shows.
class Top {
 public:
  Top(NodeClient node, NodeStatus status, double interval_s)
      : node_(std::move(node)), status_(std::move(status)), interval_s_(interval_s) {}

  void Run() {
    Deadline refresh = Deadline::In(interval_s_);
    while (true) {
      Draw();
      const LiveScreen::Event event = screen_.Wait(refresh.SecondsLeft());
      const LiveInput input = ParseLiveInput(event.bytes);
      if (input.quit || event.closed) return;
      for (const LiveKey key : input.keys) view_ = AfterKey(view_, key, status_, Size());
      if (!refresh.Passed()) continue;
      Refresh();
      refresh = Deadline::In(interval_s_);
    }
  }

 private:
  LiveSize Size() const {
    const LiveScreen::Size size = screen_.size();
    return {.columns = size.columns, .rows = size.rows, .colour = WantsColour()};
  }

  void Draw() {
    // While the daemon is away, what it said last stays, under a line that says so.
    NodeStatus shown = status_;
    if (!problem_.empty()) shown.operation = fmt::format("no answer: {}", problem_);
    screen_.Draw(LiveFrame(shown, view_, Size()));
  }

  // A daemon that was replaced is found again at the same place; none is started for it.
  void Refresh() {
    Result<NodeStatus> status = node_.ReadStatus();
    if (!status) {
      if (Result<NodeClient> again = NodeClient::Connect(node_.place(), false)) {
        node_ = std::move(*again);
        status = node_.ReadStatus();
      }
    }
    problem_ = status ? "" : status.error().message;
    if (status) status_ = std::move(*status);
  }

  NodeClient node_;
  NodeStatus status_;
  double interval_s_;
  LiveView view_;
  std::string problem_;
  LiveScreen screen_;
};

Result<int> RunTop(const Flags& flags) {
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kLook));
  ASSIGN_OR_RETURN(NodeStatus status, node.ReadStatus());
  if (flags.once || !LiveScreen::Available()) {
    fmt::print("{}\n", LiveFrame(status, {},
                                 {.columns = kColumnsOfAFile, .rows = 0, .colour = WantsColour()}));
    return 0;
  }
  Top(std::move(node), std::move(status), flags.interval_s).Run();
  return 0;
}

}  // namespace

void AddTopVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "top", "Watch the GPUs: each as a bar of its shares with what they use");
  verb->add_option("-d,--interval", flags->interval_s, "Seconds between two looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  verb->add_flag("--once", flags->once, "Print one frame, as where the output is no terminal");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] { program.chosen = [flags] { return RunTop(*flags); }; });
}

}  // namespace sublet
