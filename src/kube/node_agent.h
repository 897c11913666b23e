// kube/node_agent.h
//
// Labels, configuration and MIG of one node, kept as the API server and this machine say, by one
// loop in one process.
//
//   NodeAgent agent(watch, {&config, &mig, &labels}, {.say = PrintLine, .stop_fd = InterruptFd()});
//   agent.Run([] { return Interrupted(); });
//
// The loop watches the node; each part hears of each change and says when it wants to be called by
// itself. A part that has changed something that others depend on wakes them (AgentPart::Wakes).
//
// Parts never fail: what goes wrong is theirs to try again, and to tell. So one that can't do its
// work, for lack of a driver or a right, doesn't keep the others from theirs.
//
// Thread safety: one thread.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kube/api_watch.h"
#include "kube/cluster_node.h"
#include "kube/feature_publisher.h"
#include "kube/mig_manager.h"
#include "kube/node_config.h"
#include "kube/node_object.h"

namespace sublet {

class AgentPart {
 public:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  virtual ~AgentPart() = default;
  // The node as it is now.
  virtual void TakeNode(const NodeObject& node) = 0;
  // Something else than the node may have changed.
  virtual void Wake() = 0;
  // Does what there is to do, and returns when to be called again.
  virtual double Step(double now_s) = 0;
  // Whether the last Step() changed what other parts depend on; asked once after each.
  virtual bool Wakes() = 0;
  // What there is to tell people since the last call.
  virtual std::vector<std::string> TakeLines() = 0;
};

struct NodeAgentOptions {
  std::function<void(const std::string& line)> say;
  int stop_fd = -1;  // Readable when the loop shall look whether to stop.
};

class NodeAgent {
 public:
  // REQUIRES: the parts and the watch outlive it.
  NodeAgent(ApiWatch& watch, std::vector<AgentPart*> parts, NodeAgentOptions options)
      : watch_(watch), parts_(std::move(parts)), options_(std::move(options)) {}

  // Until `stopped`.
  void Run(const std::function<bool()>& stopped);

 private:
  double StepParts(double now_s);
  void Take(const ApiChange& change);

  ApiWatch& watch_;
  std::vector<AgentPart*> parts_;
  NodeAgentOptions options_;
  bool present_ = true;  // The node is there.
};

// The node's labels: made anew each interval, and whenever something changed.
class LabelPart final : public AgentPart {
 public:
  // Fails where the driver or the configuration can't be read; then the labels stay as they are.
  using Make = std::function<Result<FeatureLabels>()>;

  LabelPart(FeaturePublisher& publisher, Make make, double interval_s)
      : publisher_(publisher), make_(std::move(make)), interval_s_(interval_s) {}

  void TakeNode(const NodeObject& node) override;
  void Wake() override { next_s_ = 0; }
  double Step(double now_s) override;
  bool Wakes() override { return false; }
  std::vector<std::string> TakeLines() override { return std::exchange(lines_, {}); }

 private:
  void SayOnce(std::string line);

  FeaturePublisher& publisher_;
  Make make_;
  double interval_s_;
  double next_s_ = 0;
  double published_s_ = 0;
  int failures_ = 0;
  NodeLabels labels_;  // As they were made last.
  std::string said_;
  std::vector<std::string> lines_;
};

// The device plugin's configuration, as the node's label chooses it.
class ConfigPart final : public AgentPart {
 public:
  // `changed` is called whenever another configuration is in effect, the first included.
  ConfigPart(NodeConfig config, ClusterNode& api, std::function<void()> changed,
             std::string (*utc)())
      : config_(std::move(config)), api_(api), changed_(std::move(changed)), utc_(utc) {}

  void TakeNode(const NodeObject& node) override;
  void Wake() override { next_s_ = 0; }
  double Step(double now_s) override;
  bool Wakes() override { return std::exchange(wakes_, false); }
  std::vector<std::string> TakeLines() override { return std::exchange(lines_, {}); }

 private:
  bool Tell(const std::string& problem);

  NodeConfig config_;
  ClusterNode& api_;
  std::function<void()> changed_;
  std::string (*utc_)();
  std::optional<NodeObject> node_;
  double next_s_ = 0;
  bool wakes_ = false;
  std::string said_;
  std::vector<std::string> lines_;
};

class MigPart final : public AgentPart {
 public:
  explicit MigPart(MigManager& manager) : manager_(manager) {}

  void TakeNode(const NodeObject& node) override;
  void Wake() override {}
  double Step(double now_s) override;
  bool Wakes() override { return manager_.TakeChanged(); }
  std::vector<std::string> TakeLines() override { return manager_.TakeLines(); }

 private:
  MigManager& manager_;
  double look_s_ = 0;  // When the file is looked at again.
};

}  // namespace sublet
