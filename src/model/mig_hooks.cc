#include "model/mig_hooks.h"

#include "base/check.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr std::array kPoints{MigHookPoint::kApplyStart, MigHookPoint::kPreApplyMode,
                             MigHookPoint::kPreApplyConfig, MigHookPoint::kApplyExit};

// What execve() takes has no zero bytes inside.
Result<std::string> ReadArgument(const Node& node) {
  ASSIGN_OR_RETURN(std::string text, ReadString(node));
  if (text.find('\0') != std::string::npos) return FailAt(node, "text with a zero byte in it");
  return text;
}

Result<std::map<std::string, std::string>> ReadVariables(const Node& node) {
  if (node.kind != Node::Kind::kMap) return FailAt(node, "a map of variables is expected here");
  std::map<std::string, std::string> variables;
  for (const auto& [name, value] : node.fields) {
    if (name.empty() || name.find('=') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return FailAt(value, "not a variable's name: '" + name.substr(0, 64) + "'");
    }
    ASSIGN_OR_RETURN(std::string text, ReadArgument(value));
    variables.emplace(name, std::move(text));
  }
  return variables;
}

Result<MigHook> ReadHook(const Node& node) {
  MigHook hook;
  ObjectReader in(node, "hook");
  in.Required("command", hook.command, ReadArgument);
  in.OptionalList("args", hook.args, ReadArgument);
  in.Optional("envs", hook.envs, ReadVariables);
  in.Optional("workdir", hook.workdir, ReadArgument);
  if (hook.command.empty()) in.Reject("command", "the command is empty");
  RETURN_IF_ERROR(in.Finish());
  return hook;
}

Result<MigHooks> ReadPoints(const Node& node) {
  MigHooks hooks;
  ObjectReader in(node, "hooks");
  for (const MigHookPoint point : kPoints) {
    in.OptionalList(MigHookPointName(point), hooks.by_point[static_cast<std::size_t>(point)],
                    ReadHook);
  }
  RETURN_IF_ERROR(in.Finish());
  return hooks;
}

Result<MigHooks> ReadMigHooks(const Node& node) {
  MigHooks hooks;
  ObjectReader in(node, "hooks file");
  in.Version(kMigHooksVersion);
  in.Required("hooks", hooks, ReadPoints);
  RETURN_IF_ERROR(in.Finish());
  return hooks;
}

}  // namespace

std::string_view MigHookPointName(MigHookPoint point) {
  switch (point) {
    case MigHookPoint::kApplyStart:
      return "apply-start";
    case MigHookPoint::kPreApplyMode:
      return "pre-apply-mode";
    case MigHookPoint::kPreApplyConfig:
      return "pre-apply-config";
    case MigHookPoint::kApplyExit:
      return "apply-exit";
  }
  CHECK(false);
}

Result<MigHooks> ParseMigHooks(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadMigHooks);
}

}  // namespace sublet
