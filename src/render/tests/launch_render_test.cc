// Ports, probes, restarts and stop times of a workload in the formats that have words for them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan_builder.h"
#include "render/render.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Everything that `target` makes of the first case, whose first workload was changed by `edit`.
template <typename Edit>
std::string Rendered(Target target, const Edit& edit) {
  Plan plan;
  for (const RenderCase& known : RenderCases()) {
    if (known.name == "exclusive") plan = known.plan;
  }
  edit(plan.workloads.at(0));
  const Result<Rendering> out = Render(plan, target, {.lossy = true});
  EXPECT_TRUE(out) << out.error().message;
  std::string all;
  for (const RenderedFile& file : out->files) all += file.content;
  return all;
}

void GiveHttpProbe(PlannedWorkload& workload) {
  workload.port = 8100;
  workload.ready = Readiness{};
  workload.ready->http = "/health";
  workload.ready->timeout_s = 90;
  workload.restart = RestartPolicy::kNever;
  workload.stop_timeout_s = 2.5;
}

TEST(RenderedLaunch, KubernetesProbesAsTheFleetSays) {
  const std::string text = Rendered(Target::kKubernetes, GiveHttpProbe);
  EXPECT_THAT(text, HasSubstr("containerPort: 8100"));
  EXPECT_THAT(text, HasSubstr("readinessProbe:"));
  EXPECT_THAT(text, HasSubstr("path: \"/health\""));
  EXPECT_THAT(text, HasSubstr("periodSeconds: 1"));
  EXPECT_THAT(text, HasSubstr("failureThreshold: 90"));
  EXPECT_THAT(text, HasSubstr("terminationGracePeriodSeconds: 3"));
  const std::string by_command = Rendered(Target::kKubernetes, [](PlannedWorkload& workload) {
    workload.ready = Readiness{};
    workload.ready->command = {"test", "$(READY)"};
  });
  EXPECT_THAT(by_command, HasSubstr("exec:"));
  EXPECT_THAT(by_command, HasSubstr("$$(READY)")) << "the kubelet would expand it";
  EXPECT_THAT(Rendered(Target::kKubernetes, [](PlannedWorkload&) {}), Not(HasSubstr("Probe")));
}

TEST(RenderedLaunch, SystemdGivesEachReplicaItsPort) {
  const std::string text = Rendered(Target::kLinux, GiveHttpProbe);
  EXPECT_THAT(text, HasSubstr("PORT=8100"));
  EXPECT_THAT(text, HasSubstr("PORT=8101"));
  EXPECT_THAT(text, HasSubstr("Restart=no\n"));
  EXPECT_THAT(text, HasSubstr("TimeoutStopSec=2500ms\n"));
  EXPECT_THAT(Rendered(Target::kLinux, [](PlannedWorkload&) {}), HasSubstr("Restart=always\n"));
}

TEST(RenderedLaunch, ComposeRunsACommandAsItsHealthCheck) {
  const std::string text = Rendered(Target::kCompose, [](PlannedWorkload& workload) {
    GiveHttpProbe(workload);
    workload.ready->http.clear();
    workload.ready->command = {"test", "-e", "/tmp/ready"};
  });
  EXPECT_THAT(text, HasSubstr("healthcheck:"));
  EXPECT_THAT(text, HasSubstr("/tmp/ready"));
  EXPECT_THAT(text, HasSubstr("PORT: \"8100\""));
  EXPECT_THAT(text, HasSubstr("restart: \"no\""));
  EXPECT_THAT(text, HasSubstr("stop_grace_period: \"2500ms\""));
  EXPECT_THAT(Rendered(Target::kCompose, GiveHttpProbe), Not(HasSubstr("healthcheck:")));
}

}  // namespace
}  // namespace sublet
