#include "route/admission_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kSecond = 1'000'000'000;

TicketId Enter(AdmissionQueue& queue, const AdmissionRequest& request, std::int64_t now_ns = 0) {
  return queue.Enter(request, now_ns).value();
}

// Who goes, in which order, when all are admitted.
std::vector<TicketId> Drained(AdmissionQueue& queue, std::int64_t now_ns = 0) {
  std::vector<TicketId> order;
  while (const auto next = queue.Next(now_ns)) {
    order.push_back(*next);
    queue.Leave(*next);
  }
  return order;
}

TEST(AdmissionQueue, OneTenantIsServedInItsOrder) {
  AdmissionQueue queue({});
  const TicketId a = Enter(queue, {.tenant = "x", .tokens = 9000});
  const TicketId b = Enter(queue, {.tenant = "x", .tokens = 1});
  EXPECT_THAT(Drained(queue), ElementsAre(a, b));
}

TEST(AdmissionQueue, NextIsTheSameUntilItLeaves) {
  AdmissionQueue queue({});
  const TicketId a = Enter(queue, {.tenant = "x"});
  Enter(queue, {.tenant = "y"});
  EXPECT_EQ(queue.Next(0), a);
  EXPECT_EQ(queue.Next(1), a);
  EXPECT_EQ(queue.waiting(), 2u);
}

TEST(AdmissionQueue, LongPromptsOfOneDontCostAnotherHisTurn) {
  AdmissionQueue queue({});
  std::vector<TicketId> large;
  std::vector<TicketId> small;
  for (int i = 0; i < 3; ++i) large.push_back(Enter(queue, {.tenant = "large", .tokens = 4096}));
  for (int i = 0; i < 8; ++i) small.push_back(Enter(queue, {.tenant = "small", .tokens = 512}));
  // Eight small ones are as much as one large one.
  const std::vector<TicketId> order = Drained(queue);
  EXPECT_EQ(std::vector<TicketId>(order.begin(), order.begin() + 7),
            std::vector<TicketId>(small.begin(), small.begin() + 7));
  EXPECT_EQ(order[7], large[0]);
  EXPECT_EQ(order[8], small[7]);
}

TEST(AdmissionQueue, WeightsShareTheTokens) {
  AdmissionQueue queue({.waiting_max = 2000, .waiting_max_a_tenant = 1000, .weights = {{"b", 3}}});
  std::map<TicketId, std::string> tenant;
  for (int i = 0; i < 400; ++i) {
    tenant[Enter(queue, {.tenant = "a", .tokens = 700})] = "a";
    tenant[Enter(queue, {.tenant = "b", .tokens = 700})] = "b";
  }
  int of_b = 0;
  for (int i = 0; i < 400; ++i) {
    const TicketId next = queue.Next(0).value();
    of_b += tenant[next] == "b" ? 1 : 0;
    queue.Leave(next);
  }
  EXPECT_NEAR(of_b, 300, 4);
}

TEST(AdmissionQueue, WhoComesBackAtOnceDoesNotStarveALongPrompt) {
  AdmissionQueue queue({});
  const TicketId patient = Enter(queue, {.tenant = "patient", .tokens = 5000});
  TicketId quick = Enter(queue, {.tenant = "quick", .tokens = 100});
  int before = 0;
  while (queue.Next(0) != patient) {
    ASSERT_LT(++before, 20);
    queue.Leave(quick);
    quick = Enter(queue, {.tenant = "quick", .tokens = 100});
  }
  EXPECT_GE(before, 5);
}

TEST(AdmissionQueue, AHigherClassGoesFirst) {
  AdmissionQueue queue({});
  const TicketId batch = Enter(queue, {.tenant = "x", .priority = PriorityClass::kBatch});
  const TicketId normal = Enter(queue, {.tenant = "x"});
  const TicketId interactive =
      Enter(queue, {.tenant = "y", .priority = PriorityClass::kInteractive, .tokens = 90'000});
  EXPECT_EQ(queue.WaitingOf(PriorityClass::kBatch), 1u);
  EXPECT_THAT(Drained(queue), ElementsAre(interactive, normal, batch));
}

TEST(AdmissionQueue, WhoHasWaitedForLongIsTakenUpAClass) {
  AdmissionQueue queue({.wait_s_max = 1000, .starvation_s = 30});
  const TicketId batch = Enter(queue, {.tenant = "x", .priority = PriorityClass::kBatch});
  EXPECT_EQ(queue.Next(29 * kSecond), batch);
  EXPECT_EQ(queue.WaitingOf(PriorityClass::kNormal), 0u);
  const TicketId normal = Enter(queue, {.tenant = "y"}, 31 * kSecond);
  EXPECT_EQ(queue.WaitingOf(PriorityClass::kNormal), 2u);
  EXPECT_EQ(queue.Next(31 * kSecond), batch);
  const TicketId interactive =
      Enter(queue, {.tenant = "z", .priority = PriorityClass::kInteractive}, 60 * kSecond);
  EXPECT_EQ(queue.Next(60 * kSecond), interactive);
  EXPECT_THAT(Drained(queue, 62 * kSecond), ElementsAre(interactive, batch, normal));
}

TEST(AdmissionQueue, RefusesBeyondItsBoundsAndSaysWhenToComeAgain) {
  AdmissionQueue queue({.waiting_max = 3, .waiting_max_a_tenant = 2});
  Enter(queue, {.tenant = "x"});
  Enter(queue, {.tenant = "x"});
  const auto third = queue.Enter({.tenant = "x"}, 0);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(third.error().message, HasSubstr("of this tenant"));
  Enter(queue, {.tenant = "y"});
  const auto fourth = queue.Enter({.tenant = "z"}, 0);
  ASSERT_FALSE(fourth);
  EXPECT_THAT(fourth.error().hint, HasSubstr("come again in 1 s"));
}

TEST(AdmissionQueue, TheHintFollowsThePaceAtWhichRequestsLeave) {
  AdmissionQueue queue({.waiting_max = 100, .wait_s_max = 1000, .starvation_s = 1000});
  for (int i = 0; i < 60; ++i) Enter(queue, {.tenant = "x"});
  for (int i = 0; i < 50; ++i) queue.Leave(queue.Next(i * kSecond / 2).value());
  EXPECT_NEAR(queue.RetryAfterSeconds(), 5, 1);  // Ten wait; two go each second.
}

TEST(AdmissionQueue, DeadlinesPassInTheirOrder) {
  AdmissionQueue queue({.wait_s_max = 60});
  const TicketId late = Enter(queue, {.tenant = "x"});
  const TicketId soon = Enter(queue, {.tenant = "x", .deadline_ns = 5 * kSecond});
  const TicketId sooner = Enter(queue, {.tenant = "y", .deadline_ns = 3 * kSecond});
  EXPECT_EQ(queue.NextDeadline(), 3 * kSecond);
  EXPECT_THAT(queue.Expire(3 * kSecond - 1), IsEmpty());
  EXPECT_THAT(queue.Expire(10 * kSecond), ElementsAre(sooner, soon));
  EXPECT_EQ(queue.NextDeadline(), 60 * kSecond);
  EXPECT_THAT(queue.Expire(60 * kSecond), ElementsAre(late));
  EXPECT_EQ(queue.NextDeadline(), std::nullopt);
  EXPECT_EQ(queue.Next(60 * kSecond), std::nullopt);
}

TEST(AdmissionQueue, NobodyPaysForWhoWentAway) {
  AdmissionQueue queue({});
  const TicketId gone = Enter(queue, {.tenant = "x", .tokens = 100'000});
  const TicketId mine = Enter(queue, {.tenant = "x", .tokens = 100});
  const TicketId other = Enter(queue, {.tenant = "y", .tokens = 100});
  queue.Abandon(gone);
  EXPECT_THAT(Drained(queue), ElementsAre(mine, other));
}

TEST(AdmissionQueue, WhoIsAdmittedOutOfTurnPaysForIt) {
  AdmissionQueue queue({});
  const TicketId first = Enter(queue, {.tenant = "x", .tokens = 100});
  const TicketId second = Enter(queue, {.tenant = "x", .tokens = 5000});
  const TicketId other = Enter(queue, {.tenant = "y", .tokens = 600});
  queue.Leave(second);
  EXPECT_THAT(Drained(queue), ElementsAre(other, first));
}

TEST(AdmissionQueue, AStrangeTicketIsNothing) {
  AdmissionQueue queue({});
  queue.Leave(7);
  queue.Abandon(8);
  EXPECT_EQ(queue.waiting(), 0u);
}

// Two tenants that always wait: what they got for their weights differs by a quantum and their
// longest prompts at most.
RC_GTEST_PROP(AdmissionQueueProperty, SharesByWeightWithinTheBoundOfDrr, ()) {
  const double weight = *rc::gen::inRange(1, 40) / 10.0;
  AdmissionQueue queue({.waiting_max = 100, .wait_s_max = 1e6, .weights = {{"b", weight}}});
  const int tokens_max = *rc::gen::element(10, 1000, 20'000);
  std::map<TicketId, std::pair<int, std::uint32_t>> tickets;
  const auto refill = [&](int tenant) {
    const auto tokens = static_cast<std::uint32_t>(*rc::gen::inRange(1, tokens_max + 1));
    tickets[Enter(queue, {.tenant = tenant == 0 ? "a" : "b", .tokens = tokens})] = {tenant, tokens};
  };
  for (int tenant : {0, 0, 1, 1}) refill(tenant);
  double got[2] = {0, 0};
  const double bound = AdmissionQueue::kQuantumTokens + tokens_max * (1 + 1 / weight);
  for (int i = 0; i < 200; ++i) {
    const TicketId next = queue.Next(0).value();
    const auto [tenant, tokens] = tickets.at(next);
    queue.Leave(next);
    got[tenant] += tokens / (tenant == 0 ? 1 : weight);
    refill(tenant);
    RC_ASSERT(std::abs(got[0] - got[1]) <= bound + 1);
  }
}

RC_GTEST_PROP(AdmissionQueueProperty, EverybodyLeavesOnceWhateverTheOrder, ()) {
  AdmissionQueue queue({.waiting_max = 20, .wait_s_max = 50, .starvation_s = 7});
  std::map<TicketId, bool> inside;
  std::int64_t now_ns = 0;
  for (int i = 0; i < 100; ++i) {
    now_ns += *rc::gen::inRange(0, 5) * kSecond;
    switch (*rc::gen::inRange(0, 5)) {
      case 0:
      case 1: {
        const auto id =
            queue.Enter({.tenant = *rc::gen::element<std::string>("a", "b", "c"),
                         .priority = static_cast<PriorityClass>(*rc::gen::inRange(0, 3)),
                         .tokens = *rc::gen::inRange(0u, 5000u)},
                        now_ns);
        RC_ASSERT(id.has_value() == (inside.size() < 20));
        if (id) inside[*id] = true;
        break;
      }
      case 2:
        if (const auto next = queue.Next(now_ns)) {
          RC_ASSERT(inside.erase(*next) == 1u);
          queue.Leave(*next);
        } else {
          RC_ASSERT(inside.empty());
        }
        break;
      case 3:
        if (!inside.empty()) {
          queue.Abandon(inside.begin()->first);
          inside.erase(inside.begin());
        }
        break;
      default:
        for (const TicketId late : queue.Expire(now_ns)) RC_ASSERT(inside.erase(late) == 1u);
    }
    RC_ASSERT(queue.waiting() == inside.size());
  }
}

}  // namespace
}  // namespace sublet
