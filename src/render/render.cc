#include "render/render.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "render/deployment.h"
#include "render/needs.h"
#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

constexpr std::size_t kNeedsNamedMax = 6;  // Of one error; more than a screen helps nobody.

TargetFiles RenderTarget(Target target, const Deployment& deployment) {
  switch (target) {
    case Target::kNvidiaDevicePlugin:
      return RenderDevicePlugin(deployment);
    case Target::kMig:
      return RenderMig(deployment);
    case Target::kKubernetes:
      return RenderKubernetes(deployment);
    case Target::kDra:
      return RenderDra(deployment);
    case Target::kLinux:
      return RenderLinux(deployment);
    case Target::kCompose:
      return RenderCompose(deployment);
  }
  CHECK(false);
}

std::string JoinNames(const std::vector<Target>& targets) {
  std::vector<std::string_view> names;
  for (const Target target : targets) names.push_back(TargetName(target));
  return fmt::format("{}", fmt::join(names, ", "));
}

Error RefusalOf(Target target, const std::vector<Need>& needs) {
  std::vector<std::string> named;
  for (const Need& need : needs) {
    if (named.size() == kNeedsNamedMax) {
      named.push_back(fmt::format("and {} more", needs.size() - kNeedsNamedMax));
      break;
    }
    named.push_back(need.what);
  }
  const std::vector<Target> able = TargetsFor(needs);
  std::string others = able.empty() ? std::string("no target can; change the fleet file")
                                    : fmt::format("targets that can: {}", JoinNames(able));
  const bool only_missing = std::all_of(needs.begin(), needs.end(), [](const Need& need) {
    return need.kind == NeedKind::kImage || need.kind == NeedKind::kCommand;
  });
  if (only_missing) others = "write it into the fleet file; " + others;
  return {ErrorCode::kUnsupported,
          fmt::format("target {} can't express: {}", TargetName(target), fmt::join(named, "; ")),
          others + "; or --lossy leaves it out and says so in the files"};
}

// The head of a file, as comments, then its body. A script's first line stays the first.
std::string WithHead(const TargetFile& file, const Deployment& deployment, Target target,
                     const std::vector<std::string>& warnings) {
  std::string head = Comment(fmt::format("{} for the target {}, from the plan of the fleet \"{}\".",
                                         kRenderMark, TargetName(target), deployment.plan->fleet));
  for (const std::string& note : file.notes) head += "#\n" + Comment(note);
  for (const std::string& warning : warnings) head += "#\n" + Comment("WARNING: " + warning);
  std::size_t first_line = 0;
  if (file.body.starts_with("#!")) first_line = file.body.find('\n') + 1;
  return file.body.substr(0, first_line) + head + file.body.substr(first_line);
}

}  // namespace

std::string_view TargetName(Target target) {
  switch (target) {
    case Target::kNvidiaDevicePlugin:
      return "nvidia-device-plugin";
    case Target::kMig:
      return "mig";
    case Target::kKubernetes:
      return "kubernetes";
    case Target::kDra:
      return "dra";
    case Target::kLinux:
      return "linux";
    case Target::kCompose:
      return "compose";
  }
  CHECK(false);
}

const std::vector<Target>& AllTargets() {
  static const std::vector<Target> all = {Target::kNvidiaDevicePlugin,
                                          Target::kMig,
                                          Target::kKubernetes,
                                          Target::kDra,
                                          Target::kLinux,
                                          Target::kCompose};
  return all;
}

Result<Target> ParseTarget(std::string_view name) {
  for (const Target target : AllTargets()) {
    if (name == TargetName(target)) return target;
  }
  return Fail(ErrorCode::kUsage, fmt::format("unknown target: '{}'", name.substr(0, 64)),
              fmt::format("one of {}", JoinNames(AllTargets())));
}

Result<Rendering> Render(const Plan& plan, Target target, const RenderOptions& options) {
  ASSIGN_OR_RETURN(const Deployment deployment, Arrange(plan));
  std::vector<Need> unmet = FindNeeds(deployment);
  std::erase_if(unmet, [&](const Need& need) { return CanExpress(target, need.kind); });
  if (!unmet.empty() && !options.lossy) {
    return tl::unexpected<Error>(RefusalOf(target, unmet));
  }
  Rendering rendering;
  for (const Need& need : unmet) {
    rendering.warnings.push_back(
        fmt::format("left out, because {} can't express it: {}", TargetName(target), need.what));
  }
  for (TargetFile& file : RenderTarget(target, deployment)) {
    std::string content = WithHead(file, deployment, target, rendering.warnings);
    rendering.files.push_back({std::move(file.path), std::move(content), file.mode});
  }
  std::sort(rendering.files.begin(), rendering.files.end(),
            [](const RenderedFile& a, const RenderedFile& b) { return a.path < b.path; });
  for (std::size_t i = 1; i < rendering.files.size(); ++i) {
    CHECK(rendering.files[i - 1].path != rendering.files[i].path);
  }
  return rendering;
}

}  // namespace sublet
