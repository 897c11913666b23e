// Rendered files, read by those who know the formats: our mig-parted reader, a validator written
// from the other programs' documentation (validate_rendered.py), shellcheck, systemd-analyze.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "child_process.h"
#include "model/mig_config.h"
#include "plan_builder.h"
#include "render/output_folder.h"
#include "render/render.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;

const std::string kValidator =
    std::string(SUBLET_SOURCE_DIR) + "/src/render/tests/validate_rendered.py";

// Each case in each target, lossy where it must be, in a folder of its own below `base`.
std::vector<std::string> WriteAllRenderings(const TemporaryFolder& base) {
  std::vector<std::string> folders;
  for (const RenderCase& known : RenderCases()) {
    for (const Target target : AllTargets()) {
      const Result<Rendering> out = Render(known.plan, target, {.lossy = true});
      EXPECT_TRUE(out) << known.name << " " << TargetName(target);
      if (!out) continue;
      folders.push_back(base / fmt::format("{}/{}", known.name, TargetName(target)));
      EXPECT_TRUE(WriteRendering(*out, target, folders.back(), {}));
    }
  }
  return folders;
}

TEST(RenderedYaml, IsWhatItsReadersAccept) {
  const TemporaryFolder base;
  std::vector<std::string> words = {"python3", kValidator};
  for (const std::string& folder : WriteAllRenderings(base)) words.push_back(folder);
  const Finished done = RunProgram(words);
  EXPECT_EQ(done.status, 0) << done.out << done.err;
}

struct BadFile {
  std::string name;
  std::string text;
};

TEST(Validator, RefusesWhatThoseReadersRefuse) {
  const std::string head = "version: v1\nsharing: {timeSlicing: {resources: [";
  const std::vector<BadFile> bad_files = {
      {"device-plugin-configs/a.yaml", head + "{name: nvidia.com/gpu, replicas: 1}]}}"},
      {"device-plugin-configs/a.yaml", head + "{name: nvidia.com/gpu, replicas: 2, rename: x}]}}"},
      {"device-plugin-configs/a.yaml", head + "{name: gpu, replicas: 2}]}}"},
      {"device-plugin-configs/a.yaml",
       "version: v1\nflags: {migStrategy: mixed}\n"
       "sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 2}]}}"},
      {"mig-parted.yaml",
       "version: v1\nmig-configs: {all-disabled: [{devices: all, mig-enabled: false, "
       "mig-devices: {1g.10gb: 1}}]}"},
      {"mig-parted.yaml", "version: v1\nmig-configs: {}"},
      {"compose.yaml", "name: a\nservices: {a: {image: $HOME}}"},
      {"unknown.yaml", "a: b"},
  };
  for (const BadFile& bad : bad_files) {
    const TemporaryFolder folder;
    fs::create_directories(fs::path(folder / bad.name).parent_path());
    WriteAll(folder / bad.name, bad.text);
    WriteAll(folder / ".env", "");
    EXPECT_NE(RunProgram({"python3", kValidator, folder.path()}).status, 0) << bad.text;
  }
}

TEST(RenderedMigConfig, SaysToOurReaderWhatThePlanSays) {
  for (const char* name : {"mig", "nodes"}) {
    const Plan& plan = CaseNamed(name);
    const Result<Rendering> out = Render(plan, Target::kMig, {.lossy = true});
    ASSERT_TRUE(out);
    for (const RenderedFile& file : out->files) {
      if (file.path != "mig-parted.yaml") continue;
      const Result<MigConfig> config = ParseMigConfig(file.content, file.path);
      ASSERT_TRUE(config) << config.error().message;
      for (const PlannedGpu& gpu : plan.gpus) {
        std::map<std::string, int> planned;
        for (const PlannedPartition& partition : gpu.partitions) {
          if (gpu.mig) ++planned[partition.profile];
        }
        const auto says_so = [&](const MigConfigEntry& entry) {
          return entry.mig_enabled == gpu.mig && entry.mig_devices == planned &&
                 entry.Matches(gpu.index, 0, 0);
        };
        EXPECT_TRUE(std::any_of(config->labels.begin(), config->labels.end(),
                                [&](const MigConfigLabel& label) {
                                  return label.name.starts_with("sublet") &&
                                         std::any_of(label.entries.begin(), label.entries.end(),
                                                     says_so);
                                }))
            << gpu.name;
      }
    }
  }
}

TEST(RenderedMigConfig, TellsBoardsApartWhereNoNodeIsNamed) {
  PlanBuilder build("boards");
  build.AddWorkload("a");
  build.AddReplica(
      build.AddInstance(build.AddGpu("gpu0", "a100-40gb"), "1g.10gb", 0, SharingMode::kExclusive),
      {.workload = "a"});
  const Result<Rendering> out = Render(build.plan(), Target::kMig, {});
  ASSERT_TRUE(out);
  const auto file = std::find_if(out->files.begin(), out->files.end(),
                                 [](const RenderedFile& f) { return f.path == "mig-parted.yaml"; });
  ASSERT_NE(file, out->files.end());
  const Result<MigConfig> config = ParseMigConfig(file->content, file->path);
  ASSERT_TRUE(config) << config.error().message;
  const Result<const MigConfigLabel*> label = config->Find("sublet");
  ASSERT_TRUE(label);
  ASSERT_EQ((*label)->entries.size(), 1u);
  // 1g.10gb is another profile on the 80 GB board.
  EXPECT_TRUE((*label)->entries.front().Matches(3, 0x20B010DE, 0));
  EXPECT_FALSE((*label)->entries.front().Matches(3, 0x20B210DE, 0));
}

TEST(RenderedShell, PassesShellcheck) {
  const TemporaryFolder base;
  WriteAllRenderings(base);
  std::vector<std::string> words = {"shellcheck", "--external-sources", "--source-path=SCRIPTDIR"};
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(base.path())) {
    // The scripts of render/shell/ are the same everywhere: one copy will do.
    const bool again = entry.path().parent_path().filename() == "bin" &&
                       entry.path().string().find("/mig/linux/") == std::string::npos;
    if (!entry.is_regular_file() || again) continue;
    if (ReadAll(entry.path()).starts_with("#!")) words.push_back(entry.path());
  }
  EXPECT_GT(words.size(), 40u);
  const Finished done = RunProgram(words);
  EXPECT_EQ(done.status, 0) << done.out << done.err;
}

// Installs a machine below a folder that has the targets which every system has.
Finished VerifyUnits(const fs::path& machine) {
  const TemporaryFolder root;
  const Finished installed = RunProgram({machine / "install.sh", root.path()});
  if (installed.status != 0) return installed;
  fs::create_directories(root / "usr/lib/systemd/system");
  std::vector<std::string> words = {"systemd-analyze", "verify", "--man=no",
                                    "--root=" + root.path()};
  for (const fs::directory_entry& unit : fs::directory_iterator("/usr/lib/systemd/system")) {
    if (unit.path().extension() != ".target" || unit.is_symlink()) continue;
    fs::copy(unit.path(), root / "usr/lib/systemd/system");
  }
  for (const fs::directory_entry& unit : fs::directory_iterator(root / "etc/systemd/system")) {
    words.push_back(unit.path().filename());
  }
  return RunProgram(words);
}

TEST(RenderedUnits, PassSystemdAnalyzeVerify) {
  const TemporaryFolder base;
  int machines = 0;
  for (const std::string& folder : WriteAllRenderings(base)) {
    if (!folder.ends_with("/linux")) continue;
    for (const fs::directory_entry& machine : fs::directory_iterator(folder)) {
      if (!machine.is_directory()) continue;
      const Finished done = VerifyUnits(machine.path());
      EXPECT_EQ(done.status, 0) << machine.path();
      EXPECT_THAT(done.err, IsEmpty()) << machine.path();
      ++machines;
    }
  }
  EXPECT_GE(machines, 9);
}

TEST(RenderedUnits, AreHeldToWhatVerifyFinds) {
  const TemporaryFolder base;
  const Result<Rendering> out = Render(CaseNamed("mps-equal"), Target::kLinux, {});
  ASSERT_TRUE(out);
  ASSERT_TRUE(WriteRendering(*out, Target::kLinux, base.path(), {}));
  WriteAll(base / "gpu-a/systemd/sublet-replica-chat-0.service",
           "[Service]\nExecStart=/opt/sublet/replicas/nobody\n");
  EXPECT_NE(VerifyUnits(base / "gpu-a").status, 0);
}

TEST(ExamplePlan, CanBeRenderedForEveryTarget) {
  const std::string path = std::string(SUBLET_SOURCE_DIR) + "/examples/04_render/shop.plan.json";
  const Result<Plan> plan = ParsePlan(ReadAll(path), path);
  ASSERT_TRUE(plan) << plan.error().message;
  for (const Target target : AllTargets()) {
    const Result<Rendering> out = Render(*plan, target, {});
    EXPECT_TRUE(out) << out.error().message;
  }
}

TEST(LabelScripts, LabelNamedNodesAndAskForTheOthers) {
  const TemporaryFolder folder;
  WriteAll(folder / "kubectl", "#!/bin/sh\necho \"$@\"\n");
  fs::permissions(folder / "kubectl", fs::perms::owner_all);
  const std::vector<std::string> environment = {"PATH=" + folder.path() + ":/usr/bin:/bin"};
  const auto run = [&](const Plan& plan, const std::vector<std::string>& arguments) {
    const Result<Rendering> out = Render(plan, Target::kNvidiaDevicePlugin, {});
    EXPECT_TRUE(out);
    EXPECT_TRUE(WriteRendering(*out, Target::kNvidiaDevicePlugin, folder / "out", {}));
    std::vector<std::string> words = {folder / "out/device-plugin-label-nodes.sh"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return RunProgram(words, environment);
  };
  Plan plan = CaseNamed("nodes");
  EXPECT_EQ(run(plan, {}).out,
            "label node node-a --overwrite nvidia.com/device-plugin.config=mps-2\n"
            "label node node-b --overwrite nvidia.com/device-plugin.config=time-slicing-2\n"
            "label node node-c --overwrite nvidia.com/device-plugin.config=mig\n");
  for (PlannedGpu& gpu : plan.gpus) gpu.node.clear();
  EXPECT_EQ(run(plan, {}).status, 2);
  EXPECT_EQ(run(plan, {"mps-9", "n1"}).status, 2);
  EXPECT_EQ(run(plan, {"mps-2", "n1", "n2"}).out,
            "label node n1 --overwrite nvidia.com/device-plugin.config=mps-2\n"
            "label node n2 --overwrite nvidia.com/device-plugin.config=mps-2\n");
}

}  // namespace
}  // namespace sublet
