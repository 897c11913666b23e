#include "exe/mig_hook_runs.h"

#include <fmt/format.h>

#include <string_view>

#include "base/child_process.h"

namespace sublet {
namespace {

// A hook stops services, each of which systemd gives 90 s to end.
constexpr double kHookSeconds = 600;

std::string_view LastLine(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  const std::size_t end = text.rfind('\n');
  return end == std::string_view::npos ? text : text.substr(end + 1);
}

}  // namespace

Status MigHookRuns::Run(MigHookPoint point) const {
  for (const MigHook& hook : hooks_.At(point)) {
    ChildOptions options;
    options.argv = {hook.command};
    options.argv.insert(options.argv.end(), hook.args.begin(), hook.args.end());
    options.environment = ChildEnvironment::Empty();
    for (const auto& [name, value] : hook.envs) options.environment.Set(name, value);
    for (const auto& [name, value] : variables_) options.environment.Set(name, value);
    options.directory = hook.workdir;
    const std::string what = fmt::format("hook {}: {}", MigHookPointName(point), hook.command);
    auto outcome = RunCommand(std::move(options), "", {.timeout_s = kHookSeconds});
    if (!outcome) return tl::unexpected<Error>(std::move(outcome).error().Prefixed(what));
    if (outcome->end.Succeeded()) continue;
    const std::string_view line = LastLine(outcome->err);
    return Fail(ErrorCode::kConflict, fmt::format("{} {}{}{}", what, DescribeEnd(outcome->end),
                                                  line.empty() ? "" : ": ", line));
  }
  return {};
}

}  // namespace sublet
