// test-kubelet: a kubelet of our own in front of a device plugin.
//
//   test-kubelet --dir /tmp/k --expect nvidia.com/gpu=8      Until it is so; then status 0.
//   test-kubelet --dir /tmp/k --drive                        A command a line, as JSON; an answer
//                                                            a line. README.md lists them.
#include <fmt/format.h>
#include <pthread.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kubelet/kubelet.h"

namespace sublet::kubelet {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  std::string folder;
  std::vector<std::string> expected;  // "nvidia.com/gpu=8"
  double timeout_s = 10;
  bool drive = false;
  unsigned seed = 1;
};

Result<std::map<std::string, int>> ParseExpected(const std::vector<std::string>& words) {
  std::map<std::string, int> expected;
  for (const std::string& word : words) {
    const std::size_t equals = word.rfind('=');
    const std::string number = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (number.empty() || number.size() > 9 ||
        number.find_first_not_of("0123456789") != std::string::npos) {
      return Fail(ErrorCode::kUsage, fmt::format("--expect: not RESOURCE=NUMBER: {}", word));
    }
    expected[word.substr(0, equals)] = std::stoi(number);
  }
  return expected;
}

std::string Describe(const Kubelet::View& view) {
  std::string text;
  for (const auto& [resource, state] : view) {
    text +=
        fmt::format("  {}: {} devices, {} allocatable; {}, registered {} times{}\n", resource,
                    state.capacity, state.allocatable, state.watched ? "watched" : "not watched",
                    state.registrations, state.fault.empty() ? "" : "; " + state.fault);
  }
  return text.empty() ? "  no plugin has registered\n" : text;
}

Result<int> Expect(Kubelet& kubelet, const Flags& flags) {
  ASSIGN_OR_RETURN(const auto expected, ParseExpected(flags.expected));
  const auto met = [&](const Kubelet::View& view) {
    for (const auto& [resource, count] : expected) {
      const auto found = view.find(resource);
      const int there = found == view.end() ? 0 : found->second.allocatable;
      if (there != count || (found != view.end() && !found->second.fault.empty())) return false;
    }
    return true;
  };
  const std::int64_t began_ns = MonotonicNanoseconds();
  if (kubelet.Await(flags.timeout_s, met)) {
    const auto passed_ms = static_cast<double>(MonotonicNanoseconds() - began_ns) * 1e-6;
    fmt::print("after {:.0f} ms:\n{}", passed_ms, Describe(kubelet.Now()));
    return 0;
  }
  fmt::print(stderr, "not within {} s: {}\nbut:\n{}", flags.timeout_s,
             fmt::join(flags.expected, ", "), Describe(kubelet.Now()));
  return 1;
}

// ---- driven ------------------------------------------------------------------------------------

Json JsonOf(const v1beta1::ContainerAllocateResponse& grant) {
  Json json = {{"envs", Json::object()},
               {"mounts", Json::array()},
               {"devices", Json::array()},
               {"annotations", Json::object()},
               {"cdi_devices", Json::array()}};
  const std::map<std::string, std::string> envs(grant.envs().begin(), grant.envs().end());
  for (const auto& [name, value] : envs) json["envs"][name] = value;
  for (const v1beta1::Mount& mount : grant.mounts()) {
    json["mounts"].push_back({{"container", mount.container_path()},
                              {"host", mount.host_path()},
                              {"read_only", mount.read_only()}});
  }
  for (const v1beta1::DeviceSpec& device : grant.devices()) {
    json["devices"].push_back({{"container", device.container_path()},
                               {"host", device.host_path()},
                               {"permissions", device.permissions()}});
  }
  const std::map<std::string, std::string> notes(grant.annotations().begin(),
                                                 grant.annotations().end());
  for (const auto& [name, value] : notes) json["annotations"][name] = value;
  for (const v1beta1::CDIDevice& device : grant.cdi_devices()) {
    json["cdi_devices"].push_back(device.name());
  }
  return json;
}

Json JsonOf(const Kubelet::View& view) {
  Json json = Json::object();
  for (const auto& [resource, state] : view) {
    json[resource] = {{"capacity", state.capacity}, {"allocatable", state.allocatable},
                      {"watched", state.watched},   {"registrations", state.registrations},
                      {"lists", state.lists},       {"fault", state.fault},
                      {"devices", state.devices},   {"numa_nodes", state.numa_nodes},
                      {"in_use", state.in_use}};
  }
  return json;
}

Json Refusal(const Error& error) {
  return {{"ok", false}, {"error", error.message}};
}

Json Answer(const Status& status) {
  return status ? Json{{"ok", true}} : Refusal(status.error());
}

// {"resources": {"nvidia.com/gpu": 8}, "seconds": 10}: allocatable, and watched where not 0.
Json Await(Kubelet& kubelet, const Json& command) {
  const auto expected = command.at("resources").get<std::map<std::string, int>>();
  const bool met = kubelet.Await(command.value("seconds", 10.0), [&](const Kubelet::View& view) {
    for (const auto& [resource, count] : expected) {
      const auto found = view.find(resource);
      const int there = found == view.end() ? 0 : found->second.allocatable;
      if (there != count || (count > 0 && !found->second.watched)) return false;
    }
    return true;
  });
  return {{"ok", met}, {"state", JsonOf(kubelet.Now())}};
}

Json Admit(Kubelet& kubelet, const Json& command) {
  PodAsk pod;
  pod.name = command.at("pod");
  for (const auto& [name, requests] : command.at("containers").items()) {
    pod.containers.push_back({name, requests.get<std::map<std::string, int>>()});
  }
  const auto admitted = kubelet.Admit(pod);
  if (!admitted) return Refusal(admitted.error());
  Json containers = Json::array();
  for (const ContainerGot& got : *admitted) {
    Json one = JsonOf(got.grant);
    one["container"] = got.container;
    one["resource"] = got.resource;
    one["ids"] = got.ids;
    containers.push_back(std::move(one));
  }
  return {{"ok", true}, {"containers", containers}};
}

Json Allocate(Kubelet& kubelet, const Json& command) {
  const auto answer =
      kubelet.Allocate(command.at("resource"), command.at("ids").get<std::vector<std::string>>());
  if (!answer) return Refusal(answer.error());
  return {{"ok", true}, {"grant", JsonOf(answer->container_responses(0))}};
}

Json Prefer(Kubelet& kubelet, const Json& command) {
  const auto ids = kubelet.Prefer(
      command.at("resource"), command.at("available").get<std::vector<std::string>>(),
      command.value("must_include", std::vector<std::string>()), command.at("size").get<int>());
  if (!ids) return Refusal(ids.error());
  return {{"ok", true}, {"ids", *ids}};
}

Json Behave(Kubelet& kubelet, const std::string& manner) {
  static const std::map<std::string, Manner> kManners = {{"proper", Manner::kProper},
                                                         {"refuses", Manner::kRefuses},
                                                         {"hangs", Manner::kHangs},
                                                         {"forgets", Manner::kForgets}};
  kubelet.Behave(kManners.at(manner));
  return {{"ok", true}};
}

Json Do(Kubelet& kubelet, const Json& command) {
  const std::string what = command.at("do");
  if (what == "state") return {{"ok", true}, {"state", JsonOf(kubelet.Now())}};
  if (what == "await") return Await(kubelet, command);
  if (what == "admit") return Admit(kubelet, command);
  if (what == "start") return Answer(kubelet.StartPod(command.at("pod")));
  if (what == "allocate") return Allocate(kubelet, command);
  if (what == "prefer") return Prefer(kubelet, command);
  if (what == "behave") return Behave(kubelet, command.at("manner"));
  if (what == "remove") {
    kubelet.RemovePod(command.at("pod"));
    return {{"ok", true}};
  }
  if (what == "stop" || what == "restart") kubelet.Stop();
  if (what == "start-again" || what == "restart") return Answer(kubelet.StartAgain());
  if (what == "stop") return {{"ok", true}};
  return {{"ok", false}, {"error", "no such command: " + what}};
}

int Drive(Kubelet& kubelet) {
  std::string line;
  while (std::getline(std::cin, line)) {
    Json answer;
    try {
      answer = Do(kubelet, Json::parse(line));
    } catch (const std::exception& wrong) {
      answer = {{"ok", false}, {"error", fmt::format("{}: {}", wrong.what(), line)}};
    }
    fmt::print("{}\n", answer.dump());
    std::fflush(stdout);
  }
  return 0;
}

Result<int> Run(const Flags& flags) {
  KubeletOptions options;
  options.folder = std::filesystem::absolute(flags.folder).lexically_normal().string();
  options.seed = flags.seed;
  ASSIGN_OR_RETURN(const std::unique_ptr<Kubelet> kubelet, Kubelet::Start(options));
  return flags.drive ? Drive(*kubelet) : Expect(*kubelet, flags);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app{"A kubelet for tests of device plugins", "test-kubelet"};
  app.add_option("--dir", flags.folder, "Folder of the sockets and of the checkpoint")
      ->required()
      ->type_name("FOLDER");
  CLI::Option* const expect =
      app.add_option("--expect", flags.expected, "Allocatable devices to wait for")
          ->type_name("RESOURCE=NUMBER");
  app.add_option("--timeout", flags.timeout_s, "Seconds to wait for them")
      ->type_name("S")
      ->capture_default_str();
  app.add_flag("--drive", flags.drive, "Take commands from standard input")->excludes(expect);
  app.add_option("--seed", flags.seed, "Of the order in which devices are offered to the plugin")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  ::signal(SIGPIPE, SIG_IGN);
  const Result<int> status = Run(flags);
  if (status) return *status;
  fmt::print(stderr, "test-kubelet: {}\n", status.error().message);
  return ExitStatus(status.error().code);
}

}  // namespace
}  // namespace sublet::kubelet

int main(int argc, char** argv) {
  return sublet::kubelet::Main(argc, argv);
}
