#include "kube/node_agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "kube/api_json.h"
#include "node/back_off.h"

namespace sublet {
namespace {

// kubelet brings a ConfigMap's change within a minute or two; looking costs a few file reads.
constexpr double kLookAtFilesSeconds = 15;
constexpr double kAgainstOthersSeconds = 5;
constexpr BackOff kLabelPause{.first_s = 5, .most_s = 300};

double MonotonicSeconds() {
  return static_cast<double>(MonotonicNanoseconds()) * 1e-9;
}

std::string Words(const Error& error) {
  return error.hint.empty() ? error.message : fmt::format("{}; {}", error.message, error.hint);
}

}  // namespace

void NodeAgent::Run(const std::function<bool()>& stopped) {
  while (!stopped()) {
    const double now_s = MonotonicSeconds();
    const double next_s = StepParts(now_s);
    const Deadline deadline =
        next_s == AgentPart::kNever ? Deadline::Never() : Deadline::In(next_s - now_s);
    if (const std::optional<ApiChange> change = watch_.Next(deadline, options_.stop_fd)) {
      Take(*change);
    }
    if (const std::optional<Error> problem = watch_.TakeProblem()) options_.say(Words(*problem));
  }
}

// When the first of them wants to be called again.
double NodeAgent::StepParts(double now_s) {
  double next_s = AgentPart::kNever;
  for (AgentPart* const part : parts_) {
    const double wanted_s = part->Step(now_s);
    for (const std::string& line : part->TakeLines()) options_.say(line);
    if (part->Wakes()) {
      for (AgentPart* const other : parts_) {
        if (other != part) other->Wake();
      }
      next_s = now_s;  // Those before it have stepped already.
    }
    next_s = std::min(next_s, wanted_s);
  }
  return next_s;
}

void NodeAgent::Take(const ApiChange& change) {
  if (change.deleted) {
    if (std::exchange(present_, false)) options_.say("the API server knows no such node");
    return;
  }
  const Result<NodeObject> node = ReadNodeObject(change.object);
  if (!node) return options_.say(Words(node.error()));
  present_ = true;
  for (AgentPart* const part : parts_) part->TakeNode(*node);
}

// Somebody may have taken away or changed what the node itself is to have on it.
void LabelPart::TakeNode(const NodeObject& node) {
  if (publisher_.target() != LabelTarget::kNode || labels_.empty()) return;
  const bool all_there = std::ranges::all_of(labels_, [&](const auto& label) {
    const auto found = node.labels.find(label.first);
    return found != node.labels.end() && found->second == label.second;
  });
  if (all_there) return;
  publisher_.Forget();
  // Not at once each time: whoever takes them away may do so as fast as we put them back.
  next_s_ = std::min(next_s_, published_s_ + kAgainstOthersSeconds);
}

double LabelPart::Step(double now_s) {
  if (now_s < next_s_) return next_s_;
  const Result<FeatureLabels> made = make_();
  Status published;
  if (made) {
    published = publisher_.Publish(made->labels, now_s);
    std::string said;
    for (const std::string& warning : made->warnings) said += warning + "\n";
    said += publisher_.note();
    SayOnce(std::move(said));
  }
  if (made && published) {
    labels_ = made->labels;
    published_s_ = now_s;
    failures_ = 0;
    next_s_ = now_s + interval_s_;
    return next_s_;
  }
  SayOnce("the labels stay as they are: " + Words(made ? published.error() : made.error()));
  next_s_ = now_s + RestartDelay(++failures_, "labels", kLabelPause);
  return next_s_;
}

void LabelPart::SayOnce(std::string line) {
  while (line.ends_with('\n')) line.pop_back();
  if (line == said_) return;
  said_ = line;
  if (!line.empty()) lines_.push_back(std::move(line));
}

void ConfigPart::TakeNode(const NodeObject& node) {
  node_ = node;
  next_s_ = 0;
}

double ConfigPart::Step(double now_s) {
  // Without the node its label isn't known, and the default may not be what it asks for.
  if (!node_) return kNever;
  if (now_s < next_s_) return next_s_;
  const NodeConfigLook look = config_.Look(node_->Label(kPluginConfigLabel));
  if (look.changed) {
    lines_.push_back(look.name.empty() ? "the empty configuration is in effect"
                                       : "configuration in effect: " + look.name);
    wakes_ = true;
    changed_();
  }
  next_s_ = now_s + kLookAtFilesSeconds;
  if (node_->Annotation(kPluginConfigProblem) != look.problem && !Tell(look.problem)) {
    next_s_ = now_s + kLookAtFilesSeconds / 3;
  }
  return next_s_;
}

// In the node's annotation, and, where it is a problem, as an event.
bool ConfigPart::Tell(const std::string& problem) {
  NodePatch patch;
  std::optional<std::string>& value = patch.annotations[std::string(kPluginConfigProblem)];
  if (!problem.empty()) value = problem;
  if (problem != said_ && !problem.empty()) lines_.push_back(problem);
  const Result<NodeObject> node = api_.Patch(patch);
  if (!node) {
    if (problem != said_) lines_.push_back("the node can't be annotated: " + Words(node.error()));
    said_ = problem;
    return false;
  }
  said_ = problem;
  node_ = *node;
  if (!problem.empty()) {
    static_cast<void>(api_.Tell(
        {.warning = true, .reason = "DevicePluginConfigProblem", .message = problem}, utc_()));
  }
  return true;
}

void MigPart::TakeNode(const NodeObject& node) {
  manager_.TakeNode(node);
}

double MigPart::Step(double now_s) {
  if (now_s >= look_s_ && manager_.Idle()) {
    manager_.LookAgain();
    look_s_ = now_s + kLookAtFilesSeconds;
  }
  return std::min(manager_.Step(now_s), std::max(look_s_, now_s));
}

}  // namespace sublet
