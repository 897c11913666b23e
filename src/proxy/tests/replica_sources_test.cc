#include "proxy/replica_sources.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using What = ReplicaStep::What;

ReplicaSpec Spec(const std::string& name, const std::string& url) {
  ReplicaSpec spec;
  spec.name = name;
  spec.url = url;
  return spec;
}

std::vector<std::string> NamesOf(const std::vector<ReplicaSpec>& specs) {
  std::vector<std::string> names;
  for (const ReplicaSpec& spec : specs) names.push_back(spec.name + "@" + spec.source);
  return names;
}

std::vector<std::pair<What, std::string>> NamesOf(const std::vector<ReplicaStep>& steps) {
  std::vector<std::pair<What, std::string>> names;
  for (const ReplicaStep& step : steps) names.emplace_back(step.what, step.spec.name);
  return names;
}

TEST(ReplicaSources, HearsAllTellers) {
  ReplicaSources sources;
  sources.Tell(kFromKubernetes, {Spec("c", "http://c")});
  sources.Tell(kFromConfig, {Spec("b", "http://b")});
  sources.Tell(kFromApi, {Spec("a", "http://a")});
  EXPECT_THAT(NamesOf(sources.Wanted().wanted), ElementsAre("a@api", "b@config", "c@kubernetes"));
  sources.Tell(kFromApi, {});
  EXPECT_THAT(NamesOf(sources.Wanted().wanted), ElementsAre("b@config", "c@kubernetes"));
}

TEST(ReplicaSources, HearsTheFirstOfTwoWhoTellOfOne) {
  ReplicaSources sources;
  sources.Tell(kFromNode, {Spec("x", "http://1"), Spec("y", "http://2"), Spec("z", "http://3")});
  sources.Tell(kFromConfig, {Spec("x", "http://9"), Spec("w", "http://2")});
  const SourceVerdict verdict = sources.Wanted();
  EXPECT_THAT(NamesOf(verdict.wanted), ElementsAre("w@config", "x@config", "z@node"));
  ASSERT_THAT(verdict.refused, SizeIs(2));
  EXPECT_THAT(verdict.refused[0].why, HasSubstr("config has this name already: x"));
  EXPECT_THAT(verdict.refused[1].why, HasSubstr("w of config has this URL already: http://2"));
  sources.Tell(kFromConfig, {});
  EXPECT_THAT(NamesOf(sources.Wanted().wanted), ElementsAre("x@node", "y@node", "z@node"));
}

TEST(StepsTo, AddsUpdatesAndDrains) {
  ReplicaSpec changed = Spec("b", "http://b");
  changed.share.sm_percent = 50;
  const auto steps = StepsTo({Spec("a", "http://a"), Spec("b", "http://b"), Spec("c", "http://c")},
                             {changed, Spec("c", "http://c"), Spec("d", "http://d")});
  EXPECT_THAT(NamesOf(steps),
              ElementsAre(std::pair(What::kDrain, "a"), std::pair(What::kUpdate, "b"),
                          std::pair(What::kAdd, "d")));
  EXPECT_EQ(steps[1].spec.share.sm_percent, 50);
}

TEST(StepsTo, ReplacesWhatIsAnotherEngine) {
  ReplicaSpec events = Spec("b", "http://b");
  events.kv_events =
      KvEventSource{.endpoint = "tcp://b:1", .replay_endpoint = {}, .topic = {}, .ranks = 1};
  const auto steps =
      StepsTo({Spec("a", "http://a"), Spec("b", "http://b")}, {Spec("a", "http://other"), events});
  EXPECT_THAT(NamesOf(steps),
              ElementsAre(std::pair(What::kReplace, "a"), std::pair(What::kReplace, "b")));
}

TEST(StepsTo, DoesNothingForTheSame) {
  const std::vector<ReplicaSpec> same{Spec("a", "http://a"), Spec("b", "http://b")};
  EXPECT_THAT(StepsTo(same, same), IsEmpty());
}

}  // namespace
}  // namespace sublet
