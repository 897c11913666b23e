#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "model/device_plugin_config.h"
#include "model/device_plugin_words.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string MessageOf(const DevicePluginSources& sources) {
  const Result<DevicePluginConfig> config = ResolveDevicePluginConfig(sources);
  return config ? "resolved" : config.error().message;
}

DevicePluginConfig Resolved(const DevicePluginSources& sources) {
  const Result<DevicePluginConfig> config = ResolveDevicePluginConfig(sources);
  EXPECT_TRUE(config.has_value()) << config.error().message;
  return config.value_or(DevicePluginConfig());
}

TEST(DevicePluginOptionsTest, TheCommandLineWinsThenTheVariableThenTheFile) {
  DevicePluginSources sources;
  EXPECT_EQ(Resolved(sources).flags.mig_strategy, MigStrategy::kNone);
  sources.file = "flags: {migStrategy: single, plugin: {passDeviceSpecs: true}}";
  EXPECT_EQ(Resolved(sources).flags.mig_strategy, MigStrategy::kSingle);
  sources.environment = {{"MIG_STRATEGY", "mixed"}};
  EXPECT_EQ(Resolved(sources).flags.mig_strategy, MigStrategy::kMixed);
  sources.flags = {{"mig-strategy", "none"}};
  EXPECT_EQ(Resolved(sources).flags.mig_strategy, MigStrategy::kNone);
  EXPECT_TRUE(Resolved(sources).flags.pass_device_specs);
  sources.environment["PASS_DEVICE_SPECS"] = "false";
  EXPECT_FALSE(Resolved(sources).flags.pass_device_specs);
}

TEST(DevicePluginOptionsTest, AnEmptyVariableIsNotSetButForKubeletsSocket) {
  DevicePluginSources sources;
  sources.environment = {{"MIG_STRATEGY", ""}, {"PASS_DEVICE_SPECS", ""}, {"KUBELET_SOCKET", ""}};
  const DevicePluginConfig config = Resolved(sources);
  EXPECT_EQ(config.flags.kubelet_socket, "");
  EXPECT_EQ(config.flags.mig_strategy, MigStrategy::kNone);
}

TEST(DevicePluginOptionsTest, EveryOptionAndVariableOfNvidiasManualIsThere) {
  DevicePluginSources sources;
  sources.flags = {{"mig-strategy", "single"},
                   {"fail-on-init-error", "false"},
                   {"driver-root", "/driver"},
                   {"pass-device-specs", ""},
                   {"device-list-strategy", "volume-mounts"},
                   {"device-list-strategy", "cdi-annotations,cdi-cri"},
                   {"device-id-strategy", "index"},
                   {"gdrcopy-enabled", "1"},
                   {"gds-enabled", "true"},
                   {"mofed-enabled", "T"},
                   {"kubelet-socket", "/k.sock"},
                   {"cdi-annotation-prefix", "p/"},
                   {"nvidia-ctk-path", "/ctk"},
                   {"container-driver-root", "/c"},
                   {"--mps-root", "/mps"},
                   {"shared-devices-allocation-policy", "packed"},
                   {"device-discovery-strategy", "nvml"},
                   {"imex-channel-ids", "0"},
                   {"imex-required", ""},
                   {"cdi-feature-flags", "a,b"},
                   {"cdi-disable-hooks", "all"}};
  sources.environment = {{"DP_DISABLE_HEALTHCHECKS", "13,31"}, {"DP_ENABLE_HEALTHCHECKS", "43"}};
  const DevicePluginConfig config = Resolved(sources);
  const PluginFlags& flags = config.flags;
  EXPECT_EQ(flags.driver_root, "/driver");
  EXPECT_EQ(flags.dev_root, "/driver");
  EXPECT_THAT(flags.device_list_strategy,
              ElementsAre(DeviceListStrategy::kVolumeMounts, DeviceListStrategy::kCdiAnnotations,
                          DeviceListStrategy::kCdiCri));
  EXPECT_TRUE(flags.gdrcopy_enabled && flags.gds_enabled && flags.mofed_enabled);
  EXPECT_TRUE(flags.pass_device_specs && !flags.fail_on_init_error && config.imex.required);
  EXPECT_THAT(flags.cdi_feature_flags, ElementsAre("a", "b"));
  EXPECT_EQ(config.health_checks_disabled, "13,31");
  EXPECT_EQ(config.health_checks_enabled, "43");
  std::set<std::string_view> variables;
  for (const PluginOption& option : PluginOptions(PluginProgram::kDevicePlugin)) {
    variables.insert(option.variables.begin(), option.variables.end());
  }
  for (const std::string_view name : {"MIG_STRATEGY",
                                      "FAIL_ON_INIT_ERROR",
                                      "NVIDIA_DRIVER_ROOT",
                                      "NVIDIA_DEV_ROOT",
                                      "PASS_DEVICE_SPECS",
                                      "DEVICE_LIST_STRATEGY",
                                      "DEVICE_ID_STRATEGY",
                                      "GDRCOPY_ENABLED",
                                      "GDS_ENABLED",
                                      "MOFED_ENABLED",
                                      "KUBELET_SOCKET",
                                      "CONFIG_FILE",
                                      "CDI_ANNOTATION_PREFIX",
                                      "NVIDIA_CDI_HOOK_PATH",
                                      "NVIDIA_CTK_PATH",
                                      "DRIVER_ROOT_CTR_PATH",
                                      "CONTAINER_DRIVER_ROOT",
                                      "MPS_ROOT",
                                      "SHARED_DEVICES_ALLOCATION_POLICY",
                                      "DEVICE_DISCOVERY_STRATEGY",
                                      "IMEX_CHANNEL_IDS",
                                      "IMEX_REQUIRED",
                                      "CDI_FEATURE_FLAGS",
                                      "CDI_DISABLE_HOOKS",
                                      "DP_DISABLE_HEALTHCHECKS",
                                      "DP_ENABLE_HEALTHCHECKS"}) {
    EXPECT_TRUE(variables.contains(name)) << name;
  }
}

TEST(DevicePluginOptionsTest, FeatureDiscoveryHasVariablesOfItsOwn) {
  DevicePluginSources sources;
  sources.program = PluginProgram::kFeatureDiscovery;
  sources.environment = {{"GFD_SLEEP_INTERVAL", "infinite"},
                         {"GFD_ONESHOT", "true"},
                         {"GFD_CONFIG_FILE", "/c"},
                         {"PASS_DEVICE_SPECS", "what?"}};
  const DevicePluginConfig config = Resolved(sources);
  EXPECT_EQ(config.gfd.sleep_interval, std::chrono::nanoseconds::max());
  EXPECT_TRUE(config.gfd.oneshot);
  EXPECT_EQ(ConfigFileOf(sources), "/c");
  sources.flags = {{"config-file", "/d"}};
  EXPECT_EQ(ConfigFileOf(sources), "/d");
  sources.flags = {{"pass-device-specs", ""}};
  EXPECT_THAT(MessageOf(sources), HasSubstr("unknown option: --pass-device-specs"));
}

TEST(DevicePluginOptionsTest, SaysWhichOptionOrVariableIsWrong) {
  DevicePluginSources sources;
  sources.flags = {{"device-list-strategy", "env"}};
  EXPECT_EQ(MessageOf(sources), "invalid --device-list-strategy option: invalid strategy: env");
  sources.flags = {{"device-id-strategy", "name"}};
  EXPECT_EQ(MessageOf(sources), "invalid --device-id-strategy option: name");
  sources.flags = {};
  sources.environment = {{"PASS_DEVICE_SPECS", "yes"}};
  EXPECT_EQ(MessageOf(sources),
            "invalid --pass-device-specs option (variable PASS_DEVICE_SPECS): yes");
  sources.environment = {};
  sources.flags = {{"imex-channel-ids", "1"}};
  EXPECT_THAT(MessageOf(sources), HasSubstr("invalid IMEX channel IDs: [1]"));
  sources.flags = {{"mig-stategy", "none"}};
  EXPECT_EQ(MessageOf(sources), "unknown option: --mig-stategy");
}

TEST(DevicePluginOptionsTest, RefusesWhatNvidiaRefuses) {
  DevicePluginSources sources;
  sources.file = "sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}";
  EXPECT_EQ(MessageOf(sources), "using MPS requires --mps-root to be specified");
  sources.flags = {{"mps-root", "/mps"}};
  EXPECT_EQ(MessageOf(sources), "resolved");
  sources.flags.emplace_back("mig-strategy", "mixed");
  EXPECT_EQ(MessageOf(sources), "using --mig-strategy=mixed is not supported with MPS");
  sources.program = PluginProgram::kFeatureDiscovery;
  sources.flags = {{"mig-strategy", "mixed"}};
  EXPECT_EQ(MessageOf(sources), "resolved");
  sources = {};
  sources.flags = {{"device-list-strategy", "cdi-cri"}, {"device-discovery-strategy", "tegra"}};
  EXPECT_EQ(MessageOf(sources),
            "CDI --device-list-strategy options are only supported on NVML-based systems");
  sources = {};
  sources.file = "sublet: {shares: [{resource: a, memory: 1Gi}]}";
  EXPECT_EQ(MessageOf(sources), "using MPS requires --mps-root to be specified");
}

TEST(GoDurationTest, ReadsWhatGoReads) {
  using internal::ParseGoDuration;
  using std::chrono::nanoseconds;
  EXPECT_EQ(ParseGoDuration("60s"), std::chrono::seconds(60));
  EXPECT_EQ(ParseGoDuration("1h1m1s"), std::chrono::seconds(3661));
  EXPECT_EQ(ParseGoDuration("1.5h"), std::chrono::minutes(90));
  EXPECT_EQ(ParseGoDuration(".5s"), std::chrono::milliseconds(500));
  EXPECT_EQ(ParseGoDuration("300ms"), std::chrono::milliseconds(300));
  EXPECT_EQ(ParseGoDuration("2us"), nanoseconds(2000));
  EXPECT_EQ(ParseGoDuration("0"), nanoseconds(0));
  for (const std::string& bad :
       std::vector<std::string>{"", "60", "s", "1d", "-1s", "1s 2s", "1e3s", "..s", "999999999h"}) {
    EXPECT_FALSE(ParseGoDuration(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace sublet
