#include "inventory/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "inventory/tests/simulation.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Inventory Take(const std::string& preset, std::map<std::string, std::string> variables = {}) {
  const Simulation simulation(preset, std::move(variables));
  const Result<Inventory> node = simulation.Take();
  EXPECT_TRUE(node) << node.error().message;
  return node.value_or(Inventory{});
}

std::size_t WidestLine(const std::string& text) {
  std::istringstream in(text);
  std::size_t widest = 0;
  for (std::string line; std::getline(in, line);) widest = std::max(widest, line.size());
  return widest;
}

TEST(Table, FitsAHundredColumnsForEveryKindOfNode) {
  for (const char* preset : {"h100-80gb:8", "l4:14", "a100-80gb:2,l4:40", "rtx-pro-6000:2"}) {
    Inventory node = Take(preset);
    node.gpus[0].problem = "opening GPU 0: gpu is lost (nvml 15)";
    EXPECT_LE(WidestLine(InventoryTable(node, {})), 100u) << preset;
  }
}

TEST(Table, ShowsWhatPeopleAskFor) {
  Inventory node = Take("h100-80gb:2");
  GpuInstance instance;
  instance.id = 9;
  instance.profile = "1g.10gb";
  instance.placement = {2, 1};
  instance.compute_instances = {{.id = 0, .profile_id = 0, .placement = {}, .uuid = "MIG-42"}};
  node.gpus[1].instances = {instance};
  node.gpus[1].mig_pending = true;
  GpuProcess process;
  process.pid = 4711;
  process.name = std::string(200, 'x') + "/serve";
  process.memory = 20_GiB;
  node.gpus[0].processes = {process};
  node.mps_daemons = {{.pipe_directory = "/p", .pid = 5, .answers = true, .servers = {6}}};
  const std::string text = InventoryTable(node, {});
  EXPECT_THAT(text, AllOf(HasSubstr("h100-80gb"), HasSubstr("driver 580.159.04, CUDA 13.0"),
                          HasSubstr("MIG profiles on offer, GPU 0-1"), HasSubstr("{0,2,4,6}:2"),
                          HasSubstr("MIG-42"), HasSubstr("off, on after reset"), HasSubstr("4711"),
                          HasSubstr("20.0 GiB"), HasSubstr("xxx/serve"), HasSubstr("NV18"),
                          HasSubstr("MPS daemons")));
  EXPECT_LE(WidestLine(text), 100u);
}

TEST(Table, SaysWhyAModeCannotRun) {
  EXPECT_THAT(InventoryTable(Take("h100-80gb:1,l4:1"), {}),
              HasSubstr("  mig           yes, on GPU 0\n"
                        "                GPU 1: the board has no MIG (NVIDIA L4)\n"));
}

TEST(Table, ColoursOnlyWhereAsked) {
  const Inventory node = Take("l4:1", {{"SUBLET_SIM_FAULTS", "lost=0"}});
  EXPECT_THAT(InventoryTable(node, {}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(InventoryTable(node, {.colour = true}), HasSubstr("\x1b[31m  GPU 0: opening GPU 0"));
}

TEST(Table, SaysWhenThereIsNoGpu) {
  EXPECT_THAT(InventoryTable({}, {}), HasSubstr("no GPU"));
}

}  // namespace
}  // namespace sublet
