#include "observe/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "observe/tests/sample_status.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Sample() {
  return MetricsText(SampleStatus(), SampleCounters());
}

std::size_t CountOf(const std::string& text, const std::string& piece) {
  std::size_t count = 0;
  for (std::size_t at = text.find(piece); at != std::string::npos; at = text.find(piece, at + 1)) {
    ++count;
  }
  return count;
}

TEST(Metrics, TellAShareByIdNameAndTenant) {
  const std::string text = Sample();
  EXPECT_THAT(text, HasSubstr("sublet_share_memory_limit_bytes{share=\"s1\",name=\"chat/0\","
                              "tenant=\"search\"} 25769803776\n"));
  EXPECT_THAT(text, HasSubstr("sublet_share_restarts_total{share=\"s5\",name=\"embed/0\","
                              "tenant=\"ads\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("sublet_share_faults_total{share=\"s5\",name=\"embed/0\","
                              "tenant=\"ads\"} 4\n"));
  EXPECT_THAT(text,
              HasSubstr("mode=\"mig\",uuid=\"GPU-1111\",mig_uuid=\"MIG-1\",domain=\"\"} 1\n"));
}

TEST(Metrics, WhatIsNotKnownHasNoSeries) {
  const std::string text = Sample();
  EXPECT_THAT(text, Not(HasSubstr("sublet_share_memory_used_bytes{share=\"s5\"")));
  EXPECT_THAT(text, Not(HasSubstr("sublet_share_sm_used_ratio{share=\"s1\"")));
  EXPECT_THAT(text, Not(HasSubstr("sublet_share_sm_limit_ratio{share=\"s9\"")));
  EXPECT_THAT(text, Not(HasSubstr("sublet_gpu_used_ratio{gpu=\"1\"")));
}

TEST(Metrics, UpIsWhatRuns) {
  const std::string text = Sample();
  EXPECT_THAT(text,
              HasSubstr("sublet_share_up{share=\"s1\",name=\"chat/0\",tenant=\"search\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sublet_share_up{share=\"s5\",name=\"embed/0\",tenant=\"ads\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("sublet_domain_up{domain=\"gpu0-ads\",tenant=\"ads\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("sublet_gpu_healthy{gpu=\"2\",uuid=\"GPU-2222\"} 0\n"));
}

TEST(Metrics, ATenantsSumsAreOverItsShares) {
  const std::string text = Sample();
  EXPECT_THAT(text, HasSubstr("sublet_tenant_shares{tenant=\"search\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("sublet_tenant_shares_up{tenant=\"ads\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("sublet_tenant_memory_used_bytes{tenant=\"research\"} 44757417984\n"));
  EXPECT_THAT(text, HasSubstr("sublet_tenant_faults{tenant=\"ads\"} 4\n"));
}

TEST(Metrics, DcgmsNamesHaveDcgmsLabelsAndUnits) {
  EXPECT_THAT(Sample(), HasSubstr("DCGM_FI_DEV_XID_ERRORS{gpu=\"2\",UUID=\"GPU-2222\","
                                  "device=\"nvidia2\",modelName=\"NVIDIA L4\","
                                  "Hostname=\"node1\"} 79\n"));
  EXPECT_THAT(Sample(), HasSubstr("Hostname=\"node1\"} 39936\n")) << "39 GiB free of the second";
}

TEST(Metrics, XidsAreCountedByNumber) {
  EXPECT_THAT(Sample(),
              HasSubstr("sublet_gpu_xid_errors_total{gpu=\"2\",uuid=\"GPU-2222\",xid=\"13\"} 4\n"));
}

TEST(Metrics, AFamilyIsWrittenOnce) {
  const std::string text = Sample();
  EXPECT_EQ(CountOf(text, "# TYPE sublet_gpu_healthy gauge\n"), 1u);
  EXPECT_EQ(CountOf(text, "# TYPE sublet_share_up gauge\n"), 1u);
}

TEST(Metrics, TheNumberOfSeriesHasALimit) {
  NodeStatus node = CrowdedStatus(1);
  node.shares.resize(kMetricsSharesMax + 5, node.shares.front());
  for (std::size_t i = 0; i < node.shares.size(); ++i) {
    node.shares[i].share.id = std::to_string(i);
  }
  const std::string text = MetricsText(node, {});
  EXPECT_EQ(CountOf(text, "\nsublet_share_up{"), kMetricsSharesMax);
  EXPECT_THAT(text, HasSubstr("sublet_shares_omitted 5\n"));
  EXPECT_THAT(text, HasSubstr("sublet_tenant_shares{tenant=\"search\"} 2005\n"));
}

TEST(Metrics, LabelsAreCutWhereACharacterBegins) {
  NodeStatus node = CrowdedStatus(1);
  node.shares[0].share.name.clear();
  while (node.shares[0].share.name.size() <= kMetricsLabelMax) node.shares[0].share.name += "xö";
  std::string wanted;
  while (wanted.size() + 3 <= kMetricsLabelMax) wanted += "xö";
  wanted += "x";
  EXPECT_THAT(MetricsText(node, {}), HasSubstr("name=\"" + wanted + "\""));
  node.shares[0].share.name = "a\xff\xc3";
  EXPECT_THAT(MetricsText(node, {}), HasSubstr("name=\"a??\""));
}

TEST(Metrics, AnEmptyNodeHasItsDaemon) {
  const std::string text = MetricsText({}, {});
  EXPECT_THAT(text, HasSubstr("sublet_uptime_seconds 0\n"));
  EXPECT_THAT(text, HasSubstr("sublet_shares_omitted 0\n"));
}

}  // namespace
}  // namespace sublet
