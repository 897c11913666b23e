// The example of docs/operating/routing-policies.md, computed: the page must contain these very
// lines.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "route/cost_model.h"
#include "route/policy.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

std::string Page() {
  std::ifstream in(SUBLET_SOURCE_DIR "/docs/operating/routing-policies.md");
  return {std::istreambuf_iterator<char>(in), {}};
}

// a holds most of the prompt and is busy. b holds a third, with a cap of 50 % of the SMs and a
// co-tenant, c, without a cap, which is prefilling.
struct Example {
  Example() {
    replicas[0] = {.slot = 0,
                   .identity = 1,
                   .queued_tokens = 9000,
                   .decoding = 12,
                   .busy = 0.2,
                   .prefill_tokens_per_second = 12'000,
                   .decode_step_ms = 18,
                   .cached_tokens = 4096,
                   .knowledge = CacheKnowledge::kExact,
                   .tokens_in_use = 30'000,
                   .tokens_capacity = 400'000};
    replicas[1] = {.slot = 1,
                   .identity = 2,
                   .prefill_tokens_per_second = 6000,
                   .cached_tokens = 2048,
                   .knowledge = CacheKnowledge::kExact,
                   .tokens_in_use = 1000,
                   .tokens_capacity = 100'000,
                   .gpu = 0,
                   .tenant = 0};
    replicas[2] = {.slot = 2,
                   .identity = 3,
                   .queued_tokens = 2400,
                   .prefill_tokens_per_second = 12'000,
                   .knowledge = CacheKnowledge::kExact,
                   .tokens_in_use = 2400,
                   .tokens_capacity = 300'000,
                   .gpu = 0,
                   .tenant = 1};
    const std::vector<TenantLoad> tenants = {{.sm_part = 0.5}, {.sm_part = 1, .prefill_ms = 200}};
    gpus[0].Build(tenants);
  }
  FleetView View() const { return {.replicas = replicas, .gpus = gpus, .mean_prefills = 2}; }

  std::vector<ReplicaView> replicas{3};
  std::vector<CoTenancy> gpus{1};
  PolicyQuery query{.prompt_tokens = 6144};
};

TEST(RoutingPoliciesPage, HasTheExampleAsItIsComputed) {
  const Example example;
  const CostContext context = CostContextOf(example.View());
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr(fmt::format("A = {:.2f}", context.work_worth)));
  EXPECT_THAT(page, HasSubstr(fmt::format("{:.0f} tokens/s", 1000 / context.mean_ms_a_token)));
  for (const ReplicaView& replica : example.replicas) {
    const CostTerms terms = CostOf(replica, context, example.query);
    const std::string row = fmt::format(
        "| {} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} | **{:.0f}** |",
        static_cast<char>('a' + replica.slot), terms.queue_ms, terms.prefill_ms, terms.later_ms,
        terms.pressure_ms, terms.cotenant_ms, terms.decode_ms, terms.Total());
    EXPECT_THAT(page, HasSubstr(row));
  }
}

TEST(RoutingPoliciesPage, NamesWhatEachPolicyWouldHaveChosen) {
  const Example example;
  const std::string page = Page();
  for (const Policy& policy : Policies()) {
    EXPECT_THAT(page, HasSubstr(fmt::format("`{}`", policy.name)));
  }
  EXPECT_EQ(ChooseByCost(example.View(), example.query).index, 0u);
  EXPECT_EQ(ChooseCacheAware(example.View(), example.query).index, 0u);
  EXPECT_EQ(ChooseLeastLoad(example.View(), example.query).index, 1u);
}

TEST(RoutingPoliciesPage, NamesTheConstants) {
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr(fmt::format("at least {:.0f} and at most {:.0f}", kWorkWorthMin,
                                          kWorkWorthMax)));
  EXPECT_THAT(page, HasSubstr(fmt::format("{:.0f} ms × u / (1 − u)", kRoomMs)));
}

}  // namespace
}  // namespace sublet
