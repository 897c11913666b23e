#include "kube/gpu_sets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

namespace sublet {
namespace {

using ::testing::ElementsAre;

using Places = std::vector<int>;

int ScoreOf(const LinkScores& scores, const Places& set) {
  int sum = 0;
  for (const int a : set) {
    for (const int b : set) {
      if (a < b) sum += scores[static_cast<std::size_t>(a)][static_cast<std::size_t>(b)];
    }
  }
  return sum;
}

Places Without(const Places& all, const Places& some) {
  Places rest;
  std::ranges::set_difference(all, some, std::back_inserter(rest));
  return rest;
}

Places AllOf(const LinkScores& scores) {
  Places all(scores.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void ForEachChoice(const Places& from, std::size_t size, Places chosen, std::size_t at,
                   const std::function<void(const Places&)>& visit) {
  if (chosen.size() == size) return visit(chosen);
  for (std::size_t i = at; i < from.size(); ++i) {
    Places more = chosen;
    more.push_back(from[i]);
    ForEachChoice(from, size, more, i + 1, visit);
  }
}

// NVIDIA's measure of a division: all GPUs in sets of `size`, what is over in one set of its own.
// Any set may come first here, so nothing is shared with the code that is tested.
class Divisions {
 public:
  Divisions(const LinkScores& scores, int size) : scores_(scores), size_(size) {}

  int Best(const Places& gpus) {
    if (gpus.empty() || size_ == 1) return 0;
    const auto [known, is_new] = best_.try_emplace(gpus, 0);
    if (!is_new) return known->second;
    int best = 0;
    const auto try_size = [&](std::size_t size) {
      ForEachChoice(gpus, size, {}, 0, [&](const Places& set) {
        if (set.front() != gpus.front()) return;
        best = std::max(best, ScoreOf(scores_, set) + Best(Without(gpus, set)));
      });
    };
    const std::size_t over = gpus.size() % static_cast<std::size_t>(size_);
    if (over > 0) try_size(over);
    if (gpus.size() >= static_cast<std::size_t>(size_)) try_size(static_cast<std::size_t>(size_));
    return best_[gpus] = best;
  }

 private:
  const LinkScores& scores_;
  const int size_;
  std::map<Places, int> best_;
};

// The header's four rules, one set after the other.
Places Oracle(const LinkScores& scores, const Places& required, int size) {
  const Places all = AllOf(scores);
  Divisions divisions(scores, size);
  Places best;
  std::tuple<int, int, int> most{-1, 0, 0};
  ForEachChoice(all, static_cast<std::size_t>(size), {}, 0, [&](const Places& set) {
    if (!std::ranges::includes(set, required)) return;
    const Places rest = Without(all, set);
    const std::tuple value(ScoreOf(scores, set), divisions.Best(rest), ScoreOf(scores, rest));
    if (value > most) std::tie(best, most) = std::pair(set, value);
  });
  return best;
}

LinkScores Uniform(int gpus, int score) {
  LinkScores scores(static_cast<std::size_t>(gpus),
                    std::vector<int>(static_cast<std::size_t>(gpus), score));
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i][i] = 0;
  return scores;
}

void Link(LinkScores& scores, int a, int b, int score) {
  scores[static_cast<std::size_t>(a)][static_cast<std::size_t>(b)] = score;
  scores[static_cast<std::size_t>(b)][static_cast<std::size_t>(a)] = score;
}

// Pairs below one switch, two switches a CPU.
LinkScores PciPairs(int gpus) {
  LinkScores scores = Uniform(gpus, 10);
  for (int a = 0; a < gpus; ++a) {
    for (int b = a + 1; b < gpus; ++b) {
      if (a / (gpus / 2) == b / (gpus / 2)) Link(scores, a, b, 20);
      if (a / 2 == b / 2) Link(scores, a, b, 50);
    }
  }
  return scores;
}

// DGX-1 with V100: the hybrid cube mesh, six NVLinks a GPU.
LinkScores Dgx1() {
  LinkScores scores = PciPairs(8);
  const std::tuple<int, int, int> links[] = {
      {0, 1, 1}, {0, 2, 1}, {0, 3, 2}, {0, 4, 2}, {1, 2, 2}, {1, 3, 1}, {1, 5, 2}, {2, 3, 2},
      {2, 6, 1}, {3, 7, 1}, {4, 5, 1}, {4, 6, 1}, {4, 7, 2}, {5, 6, 2}, {5, 7, 1}, {6, 7, 2}};
  for (const auto& [a, b, count] : links) {
    const int pci = scores[static_cast<std::size_t>(a)][static_cast<std::size_t>(b)];
    Link(scores, a, b, pci + 100 * count);
  }
  return scores;
}

LinkScores NvSwitch(int gpus, int nvlinks) {
  LinkScores scores = PciPairs(gpus);
  for (auto& row : scores) {
    for (int& score : row) score += score > 0 ? 100 * nvlinks : 0;
  }
  return scores;
}

TEST(GpuSets, ScoresPathsAndNvLinksAsNvidiaDoes) {
  Inventory node;
  node.links = {{.a = 0, .b = 1, .pci_path = PciPath::kSameBoard, .nvlinks = {}, .p2p = {}},
                {.a = 0, .b = 2, .pci_path = PciPath::kOneSwitch, .nvlinks = 2, .p2p = {}},
                {.a = 1, .b = 2, .pci_path = PciPath::kSystem, .nvlinks = 18, .p2p = {}},
                {.a = 0, .b = 9, .pci_path = PciPath::kSystem, .nvlinks = {}, .p2p = {}}};
  EXPECT_THAT(
      ScoresOf(node, {0, 1, 2}),
      ElementsAre(ElementsAre(0, 60, 250), ElementsAre(60, 0, 1810), ElementsAre(250, 1810, 0)));
  EXPECT_THAT(ScoresOf(node, {2, 0, 5}),
              ElementsAre(ElementsAre(0, 250, 0), ElementsAre(250, 0, 0), ElementsAre(0, 0, 0)));
}

TEST(GpuSets, ALoneGpuIsTakenFromABrokenPair) {
  LinkScores scores = Uniform(3, 10);
  Link(scores, 1, 2, 50);
  EXPECT_THAT(BestLinkedSet(scores, {}, 1), ElementsAre(0));
  EXPECT_THAT(BestLinkedSet(scores, {}, 2), ElementsAre(1, 2));
  EXPECT_THAT(BestLinkedSet(scores, {0}, 2), ElementsAre(0, 1));
}

TEST(GpuSets, OfEqualPairsTheOneThatLeavesTheBestPairsGoes) {
  LinkScores scores = Uniform(6, 0);
  const std::pair<int, int> links[] = {{0, 1}, {0, 4}, {1, 5}, {2, 3}, {2, 4}, {2, 5}};
  for (const auto& [a, b] : links) Link(scores, a, b, 10);
  Link(scores, 3, 4, 5);
  // Without 0 and 1 the pairs 2-5 and 3-4 are left, 15; without 1 and 5 it is 0-4 and 2-3, 20. The
  // links between the four are worth 35 both times.
  EXPECT_THAT(BestLinkedSet(scores, {}, 2), ElementsAre(1, 5));
}

TEST(GpuSets, NoneAndAllAreWhatTheyAre) {
  EXPECT_THAT(BestLinkedSet(Uniform(3, 1), {}, 0), ElementsAre());
  EXPECT_THAT(BestLinkedSet(Uniform(3, 1), {1}, 3), ElementsAre(0, 1, 2));
}

TEST(GpuSets, OnADgx1TheFourOfOneCornerGoTogether) {
  EXPECT_THAT(BestLinkedSet(Dgx1(), {}, 2), ElementsAre(2, 3));  // Two links and one switch.
  EXPECT_THAT(BestLinkedSet(Dgx1(), {}, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(BestLinkedSet(Dgx1(), {5}, 4), ElementsAre(4, 5, 6, 7));
}

RC_GTEST_PROP(GpuSetsProperty, EqualsTheOracleOnRandomTopologies, ()) {
  const int gpus = *rc::gen::element(1, 2, 3, 4, 5, 6, 7, 8, 9);
  LinkScores scores = Uniform(gpus, 0);
  // Few different scores make many ties, which is where the rules differ.
  const int kinds = *rc::gen::element(1, 2, 2, 3, 5);
  for (int a = 0; a < gpus; ++a) {
    for (int b = a + 1; b < gpus; ++b) {
      Link(scores, a, b, *rc::gen::resize(100, rc::gen::inRange(0, kinds)));
    }
  }
  Places required;
  for (int i = 0; i < gpus; ++i) {
    if (*rc::gen::element(0, 0, 0, 1) == 1) required.push_back(i);
  }
  for (int size = std::max(1, static_cast<int>(required.size())); size <= gpus; ++size) {
    RC_ASSERT(BestLinkedSet(scores, {}, size) == Oracle(scores, {}, size));
    RC_ASSERT(BestLinkedSet(scores, required, size) == Oracle(scores, required, size));
  }
}

class ClassicalTopology : public testing::TestWithParam<std::pair<std::string, LinkScores>> {};

// The set itself is the best there is, so it is at least as good as the best of NVIDIA's division.
// And with what it leaves it is as good as that division as a whole.
TEST_P(ClassicalTopology, IsNeverWorseThanNvidiasDivision) {
  const LinkScores& scores = GetParam().second;
  const Places all = AllOf(scores);
  for (int size = 1; size <= static_cast<int>(scores.size()); ++size) {
    Divisions divisions(scores, size);
    const Places set = BestLinkedSet(scores, {}, size);
    ASSERT_EQ(set.size(), static_cast<std::size_t>(size));
    int best = 0;
    ForEachChoice(all, static_cast<std::size_t>(size), {}, 0,
                  [&](const Places& other) { best = std::max(best, ScoreOf(scores, other)); });
    EXPECT_EQ(ScoreOf(scores, set), best) << size;
    EXPECT_GE(ScoreOf(scores, set) + divisions.Best(Without(all, set)),
              size == 1 ? 0 : divisions.Best(all))
        << size;
  }
}

INSTANTIATE_TEST_SUITE_P(Nodes, ClassicalTopology,
                         testing::Values(std::pair("Dgx1", Dgx1()),
                                         std::pair("DgxA100", NvSwitch(8, 12)),
                                         std::pair("HgxH100", NvSwitch(8, 18)),
                                         std::pair("PciPairs4", PciPairs(4)),
                                         std::pair("PciPairs8", PciPairs(8))),
                         [](const auto& topology) { return topology.param.first; });

TEST(GpuSets, SixteenGpusAreNeverWorseEither) {
  for (const LinkScores& scores : {PciPairs(16), NvSwitch(16, 6)}) {
    for (int size = 1; size <= 16; ++size) {
      const Places set = BestLinkedSet(scores, {}, size);
      // Neighbours by construction: the first `size` are the best.
      Places first(static_cast<std::size_t>(size));
      std::iota(first.begin(), first.end(), 0);
      EXPECT_GE(ScoreOf(scores, set), ScoreOf(scores, first)) << size;
    }
  }
}

// Above kExactGpusMax: no single exchange would make the set better.
TEST(GpuSets, ManyGpusGetASetThatNoExchangeImproves) {
  const LinkScores scores = PciPairs(40);
  for (const int size : {1, 2, 7, 20, 39}) {
    const Places set = BestLinkedSet(scores, {3}, size);
    ASSERT_EQ(set.size(), static_cast<std::size_t>(size));
    EXPECT_TRUE(std::ranges::is_sorted(set));
    EXPECT_TRUE(std::ranges::binary_search(set, 3));
    for (const int out : set) {
      for (int in = 0; in < 40 && out != 3; ++in) {
        if (std::ranges::binary_search(set, in)) continue;
        Places other = set;
        std::ranges::replace(other, out, in);
        std::ranges::sort(other);
        EXPECT_LE(ScoreOf(scores, other), ScoreOf(scores, set));
      }
    }
  }
}

}  // namespace
}  // namespace sublet
