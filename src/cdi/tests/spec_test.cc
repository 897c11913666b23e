#include "cdi/spec.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cdi/spec_check.h"

namespace sublet {
namespace {

CdiSpec Smallest() {
  CdiSpec spec{.version = "0.3.0", .vendor = "vendor.com", .class_name = "device"};
  spec.devices.push_back({.name = "mine", .edits = {.env = {"A=b"}}});
  return spec;
}

constexpr const char* kEveryField = R"({
  "cdiVersion": "0.6.0",
  "kind": "vendor.com/gpu",
  "annotations": {
    "sublet.dev/what": "a test"
  },
  "devices": [
    {
      "name": "0",
      "annotations": {
        "which": "first"
      },
      "containerEdits": {
        "deviceNodes": [
          {
            "path": "/dev/a",
            "hostPath": "/host/dev/a",
            "type": "c",
            "major": 195,
            "minor": 0,
            "fileMode": 438,
            "permissions": "rw",
            "uid": 0,
            "gid": 44
          }
        ]
      }
    }
  ],
  "containerEdits": {
    "env": [
      "A=b"
    ],
    "mounts": [
      {
        "hostPath": "/a",
        "containerPath": "/b",
        "type": "tmpfs",
        "options": [
          "ro",
          "rbind"
        ]
      }
    ],
    "hooks": [
      {
        "hookName": "createContainer",
        "path": "/bin/hook",
        "args": [
          "hook",
          "x"
        ],
        "env": [
          "C=d"
        ],
        "timeout": 5
      }
    ]
  }
}
)";

TEST(CdiSpecText, HasEveryFieldInTheOrderOfTheSpecification) {
  CdiSpec spec{.version = "0.6.0", .vendor = "vendor.com", .class_name = "gpu"};
  spec.annotations = {{"sublet.dev/what", "a test"}};
  spec.devices.push_back({.name = "0",
                          .annotations = {{"which", "first"}},
                          .edits = {.device_nodes = {{.path = "/dev/a",
                                                      .host_path = "/host/dev/a",
                                                      .type = "c",
                                                      .major = 195,
                                                      .minor = 0,
                                                      .file_mode = 438,
                                                      .permissions = "rw",
                                                      .uid = 0,
                                                      .gid = 44}}}});
  spec.edits = {.env = {"A=b"},
                .mounts = {{.host_path = "/a",
                            .container_path = "/b",
                            .type = "tmpfs",
                            .options = {"ro", "rbind"}}},
                .hooks = {{.hook_name = "createContainer",
                           .path = "/bin/hook",
                           .args = {"hook", "x"},
                           .env = {"C=d"},
                           .timeout_s = 5}}};
  ASSERT_TRUE(CheckCdiSpec(spec));
  EXPECT_EQ(CdiSpecText(spec), kEveryField);
}

TEST(CdiSpecText, LeavesOutWhatIsEmpty) {
  EXPECT_EQ(CdiSpecToJson(Smallest()).dump(),
            R"({"cdiVersion":"0.3.0","kind":"vendor.com/device",)"
            R"("devices":[{"name":"mine","containerEdits":{"env":["A=b"]}}]})");
}

TEST(CdiVersion, IsTheLowestThatHasWhatIsUsed) {
  EXPECT_EQ(CdiVersionNeeded(Smallest()), "0.3.0");
  CdiSpec spec = Smallest();
  spec.edits.mounts = {{.host_path = "/a", .container_path = "/a", .type = "tmpfs"}};
  EXPECT_EQ(CdiVersionNeeded(spec), "0.4.0");
  spec.devices[0].edits.device_nodes = {{.path = "/dev/a", .host_path = "/dev/b"}};
  EXPECT_EQ(CdiVersionNeeded(spec), "0.5.0");
  spec = Smallest();
  spec.devices[0].name = "0";
  EXPECT_EQ(CdiVersionNeeded(spec), "0.5.0");
  spec.annotations = {{"a", "b"}};
  EXPECT_EQ(CdiVersionNeeded(spec), "0.6.0");
  spec = Smallest();
  spec.devices[0].annotations = {{"a", "b"}};
  EXPECT_EQ(CdiVersionNeeded(spec), "0.6.0");
  spec = Smallest();
  spec.class_name = "gpu.big";
  EXPECT_EQ(CdiVersionNeeded(spec), "0.6.0");
}

TEST(CdiNames, AreThoseOfTheReferenceImplementation) {
  for (const char* name : {"k8s.device-plugin.nvidia.com", "a", "A1_b", "vendor.com"}) {
    EXPECT_TRUE(IsCdiVendor(name)) << name;
  }
  for (const char* name : {"", "1a", "a-", "-a", "a/b", "a=b", "a:b", "a b", "\xc3\xa4"}) {
    EXPECT_FALSE(IsCdiVendor(name)) << name;
    EXPECT_FALSE(IsCdiClass(name)) << name;
  }
  EXPECT_TRUE(IsCdiVendor(std::string(253, 'a')));
  EXPECT_FALSE(IsCdiVendor(std::string(254, 'a')));
  EXPECT_TRUE(IsCdiClass(std::string(63, 'a')));
  EXPECT_FALSE(IsCdiClass(std::string(64, 'a')));
  for (const char* name : {"0", "0:1", "all", "GPU-8e3b", "MIG-GPU.1_x"}) {
    EXPECT_TRUE(IsCdiDeviceName(name)) << name;
  }
  for (const char* name : {"", ":0", "0:", "a/b", "a=b", "a,b", "a b"}) {
    EXPECT_FALSE(IsCdiDeviceName(name)) << name;
  }
}

// What makes a good spec bad.
struct Flaw {
  const char* what;
  std::function<void(CdiSpec&)> make;
};

TEST(CdiCheck, FindsEveryBrokenRule) {
  const std::vector<Flaw> flaws = {
      {"unknown version", [](CdiSpec& spec) { spec.version = "0.2.9"; }},
      {"no version", [](CdiSpec& spec) { spec.version = ""; }},
      {"version too low", [](CdiSpec& spec) { spec.devices[0].name = "0"; }},
      {"vendor", [](CdiSpec& spec) { spec.vendor = "0.com"; }},
      {"class", [](CdiSpec& spec) { spec.class_name = "a/b"; }},
      {"no devices", [](CdiSpec& spec) { spec.devices.clear(); }},
      {"a device's name", [](CdiSpec& spec) { spec.devices[0].name = "a b"; }},
      {"one name twice", [](CdiSpec& spec) { spec.devices.push_back(spec.devices[0]); }},
      {"a device without edits", [](CdiSpec& spec) { spec.devices[0].edits = {}; }},
      {"an env without =", [](CdiSpec& spec) { spec.edits.env = {"A"}; }},
      {"an env without a name", [](CdiSpec& spec) { spec.edits.env = {"=a"}; }},
      {"a node without a path", [](CdiSpec& spec) { spec.edits.device_nodes = {{}}; }},
      {"a node's relative path",
       [](CdiSpec& spec) { spec.edits.device_nodes = {{.path = "dev/a"}}; }},
      {"a node's type",
       [](CdiSpec& spec) { spec.edits.device_nodes = {{.path = "/dev/a", .type = "x"}}; }},
      {"a negative number",
       [](CdiSpec& spec) {
         spec.edits.device_nodes = {{.path = "/a", .type = "c", .major = -1, .minor = 0}};
       }},
      {"half a number",
       [](CdiSpec& spec) { spec.edits.device_nodes = {{.path = "/a", .type = "c", .major = 1}}; }},
      {"a node's permissions",
       [](CdiSpec& spec) { spec.edits.device_nodes = {{.path = "/a", .permissions = "rx"}}; }},
      {"a mount without a source",
       [](CdiSpec& spec) { spec.edits.mounts = {{.container_path = "/a"}}; }},
      {"a mount without a target",
       [](CdiSpec& spec) { spec.edits.mounts = {{.host_path = "/a"}}; }},
      {"a path that isn't text",
       [](CdiSpec& spec) { spec.edits.mounts = {{.host_path = "/\xff", .container_path = "/a"}}; }},
      {"a hook's name",
       [](CdiSpec& spec) { spec.edits.hooks = {{.hook_name = "x", .path = "/a"}}; }},
      {"a hook's relative path",
       [](CdiSpec& spec) { spec.edits.hooks = {{.hook_name = "prestart", .path = "a"}}; }},
      {"a hook's timeout",
       [](CdiSpec& spec) {
         spec.edits.hooks = {{.hook_name = "prestart", .path = "/a", .timeout_s = 0}};
       }},
      {"a hook's env",
       [](CdiSpec& spec) {
         spec.edits.hooks = {{.hook_name = "prestart", .path = "/a", .env = {"a"}}};
       }},
      {"an annotation's key",
       [](CdiSpec& spec) {
         spec.version = "0.6.0";
         spec.annotations = {{"a b", "c"}};
       }},
      {"annotations too long",
       [](CdiSpec& spec) {
         spec.version = "0.6.0";
         spec.annotations = {{"a", std::string(300'000, 'b')}};
       }},
  };
  ASSERT_TRUE(CheckCdiSpec(Smallest()));
  for (const Flaw& flaw : flaws) {
    CdiSpec spec = Smallest();
    flaw.make(spec);
    const Status checked = CheckCdiSpec(spec);
    ASSERT_FALSE(checked) << flaw.what;
    EXPECT_EQ(checked.error().code, ErrorCode::kInvalid) << flaw.what;
  }
}

}  // namespace
}  // namespace sublet
