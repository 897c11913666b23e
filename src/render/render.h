// render/render.h
//
// Turns a plan into the files that other programs read.
//
// Render() is a pure function: the same plan and target give the same files, byte for byte. It
// reads no clock, file or GPU; render/output_folder.h writes what it returns.
//
//   ASSIGN_OR_RETURN(Rendering out, Render(plan, Target::kLinux, {}));
//   for (const RenderedFile& file : out.files) ...   // "node/bin/mps-server", mode 0755
//
// What each target is for:
//
//   nvidia-device-plugin  how NVIDIA's device plugin shares the GPUs of each node: ConfigMap, files
//                         for --config-file, node labels
//   mig                   the MIG instances of each node: mig-parted file, ConfigMap for the GPU
//                         operator's MIG manager, node labels
//   kubernetes            Deployments that use what the two above offer
//   dra                   Deployments with claims for the DRA driver (resource.k8s.io/v1)
//   linux                 systemd units and scripts for one machine: MIG, MPS, replicas
//   compose               a compose file for podman or docker, with CDI devices
//
// A plan often says more than a target can. Then Render() fails with kUnsupported: the message
// names each thing, the hint the targets that can. With RenderOptions::lossy it renders the rest,
// and what was left out stands as a warning at the top of every file and in Rendering::warnings.
//
// A plan is data from outside. Names that end up in paths and unit names are checked, text that
// ends up in shell, YAML or unit files is quoted for that place (render/quoting.h); what can't be
// carried over unchanged (a control character in a command, a variable that Sublet itself must own)
// is kInvalid, with or without `lossy`.
//
// Thread safety: no shared state; call from any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/plan.h"

namespace sublet {

enum class Target { kNvidiaDevicePlugin, kMig, kKubernetes, kDra, kLinux, kCompose };

// The word on the command line: "nvidia-device-plugin", "mig", ...
std::string_view TargetName(Target target);
// All of them, in the order above.
const std::vector<Target>& AllTargets();
// Fails with kUsage and lists the names.
Result<Target> ParseTarget(std::string_view name);

struct RenderOptions {
  bool lossy = false;  // Render what the target can express, and say what was left out.
};

// Every file carries this in its first lines: the writer tells its own files from others' by it.
inline constexpr std::string_view kRenderMark = "Written by `sublet render`";

struct RenderedFile {
  std::string path;  // Relative, with '/': "node/systemd/sublet.target".
  std::string content;
  unsigned mode = 0644;
};

struct Rendering {
  std::vector<RenderedFile> files;    // Ascending path.
  std::vector<std::string> warnings;  // What was left out, in sentences; empty unless lossy.
};

// Fails with kInvalid where the plan can't be trusted to be rendered right, kUnsupported as above.
Result<Rendering> Render(const Plan& plan, Target target, const RenderOptions& options);

}  // namespace sublet
