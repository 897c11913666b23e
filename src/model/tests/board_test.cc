#include "model/board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Board& BoardNamed(std::string_view name) {
  const auto board = BuiltInBoards().Find(name);
  EXPECT_TRUE(board.has_value()) << name;
  return **board;
}

// A catalogue of one board that tests bend out of shape.
std::string OneBoard(const std::string& row, const std::string& more = "") {
  return R"(version: sublet.boards/v1
boards:
  - name: toy
    product: NVIDIA Toy
    pci_ids: ["ABCD"]
    architecture: hopper
    compute_capability: "9.0"
    memory_mib: 8192
    sm_count: 8
    memory_bandwidth_gbps: 100
    dense_bf16_tflops: 10
    engines: {copy: 2}
    price_usd_hour: 1.5
    provenance: unverified
)" + more +
         R"(    mig:
      memory_units: 2
      compute_slices: 2
      toggle_needs_reset: false
      driver_min: "525"
      profiles:
        - )" +
         row + "\n";
}

const char kGoodRow[] =
    "{name: 1g.4gb, id: 19, compute_slices: 1, size: 1, starts: [0, 1], max_instances: 2, "
    "memory_mib: 4096, sm_count: 4, engines: {copy: 1}, provenance: vendor}";

Board Named(const std::string& name, const std::string& product, double price_usd_hour) {
  Board board;
  board.name = name;
  board.product = product;
  board.pci_ids = {7};
  board.price_usd_hour = price_usd_hour;
  return board;
}

std::string With(std::string row, const std::string& from, const std::string& to) {
  const auto at = row.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return row.replace(at, from.size(), to);
}

std::string MessageOf(const std::string& text) {
  const auto parsed = ParseBoards(text, "toy.yaml");
  if (parsed.has_value()) return "parsed";
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalid);
  return parsed.error().message;
}

TEST(BoardCatalogueTest, HoldsEveryBoardThatTheDocumentationPromises) {
  for (const std::string_view name :
       {"a100-40gb", "a100-80gb", "a30", "pg506-96gb", "h100-80gb", "h100-94gb", "h100-96gb",
        "gh200-96gb", "h20-96gb", "h200", "gh200-144gb", "b200", "gb200", "b300", "gb300",
        "rtx-pro-6000", "rtx-pro-5000-48gb", "rtx-pro-4500-32gb", "jetson-thor"}) {
    EXPECT_TRUE(BoardNamed(name).HasMig()) << name;
  }
  for (const std::string_view name :
       {"t4", "l4", "l40s", "a10", "v100-16gb", "v100-32gb", "rtx-4090"}) {
    EXPECT_FALSE(BoardNamed(name).HasMig()) << name;
  }
  EXPECT_EQ(BuiltInBoards().boards.size(), 26u);
}

TEST(BoardCatalogueTest, HasTheH200TableThatTheDriverReported) {
  const Board& board = BoardNamed("h200");
  struct Row {
    int id;
    const char* name;
    int max;
    int mib;
    int sm;
    EngineCounts engines;
    std::vector<int> starts;
    int size;
  };
  const Row rows[] = {
      {19, "1g.18gb", 7, 16384, 16, {1, 1, 0, 1, 0}, {0, 1, 2, 3, 4, 5, 6}, 1},
      {20, "1g.18gb+me", 1, 16384, 16, {1, 1, 0, 1, 1}, {0, 1, 2, 3, 4, 5, 6}, 1},
      {15, "1g.35gb", 4, 33280, 26, {1, 1, 0, 1, 0}, {0, 2, 4, 6}, 2},
      {14, "2g.35gb", 3, 33280, 32, {2, 2, 0, 2, 0}, {0, 2, 4}, 2},
      {9, "3g.71gb", 2, 71424, 60, {3, 3, 0, 3, 0}, {0, 4}, 4},
      {5, "4g.71gb", 1, 71424, 64, {4, 4, 0, 4, 0}, {0}, 4},
      {0, "7g.141gb", 1, 143360, 132, {8, 7, 0, 7, 1}, {0}, 8},
  };
  ASSERT_EQ(board.profiles.size(), std::size(rows));
  for (const Row& row : rows) {
    const MigProfile* profile = board.FindProfile(row.id);
    ASSERT_NE(profile, nullptr) << row.name;
    EXPECT_EQ(profile->name, row.name);
    EXPECT_EQ(profile->max_instances, row.max) << row.name;
    EXPECT_EQ(profile->memory.mib(), row.mib) << row.name;
    EXPECT_EQ(profile->sm_count, row.sm) << row.name;
    EXPECT_EQ(profile->engines, row.engines) << row.name;
    EXPECT_EQ(profile->starts, row.starts) << row.name;
    EXPECT_EQ(profile->size, row.size) << row.name;
    EXPECT_EQ(profile->provenance, Provenance::kMeasured) << row.name;
  }
}

// NVIDIA's naming rule: the memory is counted in eighths of the board, rounded up, and that part of
// the board's GiB, rounded up, is rounded to the nearest whole number.
TEST(BoardCatalogueTest, NamesEveryProfileByTheRuleOfTheDriver) {
  for (const Board& board : BuiltInBoards().boards) {
    const double total_mib = static_cast<double>(board.memory.mib());
    for (const MigProfile& profile : board.profiles) {
      const double eighths = std::ceil(static_cast<double>(profile.memory.mib()) / total_mib * 8);
      const int gb = static_cast<int>(std::round(eighths / 8 * std::ceil(total_mib / 1024)));
      const std::string expected =
          std::to_string(profile.compute_slices) + "g." + std::to_string(gb) + "gb";
      const std::string plain = profile.name.substr(0, profile.name.find_first_of("+-"));
      EXPECT_EQ(plain, expected) << board.name << " " << profile.name;
    }
  }
}

TEST(BoardCatalogueTest, ResolvesOneNameDifferentlyOnTwoBoards) {
  EXPECT_EQ(BoardNamed("a100-40gb").FindProfile("1g.10gb")->id, 15);
  EXPECT_EQ(BoardNamed("a100-80gb").FindProfile("1g.10gb")->id, 19);
  EXPECT_EQ(BoardNamed("h200").FindProfile("1g.35gb")->max_instances, 4);
  EXPECT_EQ(BoardNamed("gb300").FindProfile("1g.35gb")->max_instances, 7);
  EXPECT_EQ(BoardNamed("rtx-pro-6000").FindProfile("1g.24gb")->size, 3);
  EXPECT_EQ(BoardNamed("h100-94gb").FindProfile("1g.24gb")->size, 2);
  EXPECT_EQ(BoardNamed("a100-80gb").FindProfile("1g.5gb"), nullptr);
}

TEST(BoardCatalogueTest, NamesNoBoardProductOrPciIdTwice) {
  std::set<std::string> products;
  std::set<std::uint32_t> ids;
  for (const Board& board : BuiltInBoards().boards) {
    EXPECT_TRUE(products.insert(board.product).second) << board.product;
    for (const auto& alias : board.aliases) EXPECT_TRUE(products.insert(alias).second) << alias;
    for (const std::uint32_t id : board.pci_ids) EXPECT_TRUE(ids.insert(id).second) << board.name;
  }
}

TEST(BoardCatalogueTest, ClaimsAMeasuredTableOnlyForTheBoardsThatWereRead) {
  for (const Board& board : BuiltInBoards().boards) {
    if (board.provenance != Provenance::kMeasured) continue;
    EXPECT_THAT(board.name,
                ::testing::AnyOf("a100-40gb", "a30", "h100-80gb", "h200", "rtx-pro-6000"));
  }
}

TEST(BoardCatalogueTest, ProposesTheBoardThatWasProbablyMeant) {
  const auto board = BuiltInBoards().Find("h100-80g");
  ASSERT_FALSE(board.has_value());
  EXPECT_EQ(board.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(board.error().message, HasSubstr("h100-80g"));
  EXPECT_THAT(board.error().hint, HasSubstr("h100-80gb"));
}

TEST(BoardCatalogueTest, KnowsARealBoardByItsPciIdWhateverItIsCalled) {
  const Board* board = BuiltInBoards().Match(0x2335, "NVIDIA Something");
  ASSERT_NE(board, nullptr);
  EXPECT_EQ(board->name, "h200");
}

TEST(BoardCatalogueTest, KnowsARealBoardByNameWhereTheIdIsUnknown) {
  EXPECT_EQ(BuiltInBoards().Match(0, "NVIDIA A100 80GB PCIe")->name, "a100-80gb");
  EXPECT_EQ(BuiltInBoards().Match(0, "A30")->name, "a30");
  EXPECT_EQ(BuiltInBoards().Match(0, "nvidia l4")->name, "l4");
  EXPECT_EQ(BuiltInBoards().Match(0xFFFF, "NVIDIA Nothing"), nullptr);
}

TEST(BoardCatalogueTest, TellsBoardsOfOnePciIdApartByName) {
  BoardCatalogue catalogue;
  catalogue.boards = {Named("one", "NVIDIA One", 1), Named("two", "NVIDIA Two", 1)};
  EXPECT_EQ(catalogue.Match(7, "NVIDIA Two")->name, "two");
  EXPECT_EQ(catalogue.Match(7, "NVIDIA Three"), nullptr);
}

TEST(BoardCatalogueTest, LetsAUsersBoardReplaceTheOneOfItsNameAndAddsTheRest) {
  BoardCatalogue mine;
  mine.boards = {Named("a30", "NVIDIA A30", 0.5), Named("new", "NVIDIA New", 1)};
  const BoardCatalogue merged = MergeBoards(BuiltInBoards(), mine);
  EXPECT_EQ((*merged.Find("a30"))->price_usd_hour, 0.5);
  EXPECT_TRUE(merged.Find("new").has_value());
  EXPECT_EQ(merged.boards.size(), BuiltInBoards().boards.size() + 1);
}

TEST(ParseBoardsTest, ReadsABoardAsItStands) {
  const auto parsed = ParseBoards(OneBoard(kGoodRow), "toy.yaml");
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  const Board& board = parsed->boards.at(0);
  EXPECT_THAT(board.pci_ids, ElementsAre(0xABCDu));
  EXPECT_EQ(board.compute_capability_major, 9);
  EXPECT_EQ(board.memory, 8_GiB);
  EXPECT_EQ(board.price_usd_hour, 1.5);
  ASSERT_EQ(board.profiles.size(), 1u);
  EXPECT_THAT(board.profiles[0].starts, ElementsAre(0, 1));
  EXPECT_EQ(board.profiles[0].provenance, Provenance::kVendor);
}

TEST(ParseBoardsTest, RefusesARowThatContradictsItsBoard) {
  const std::string row = kGoodRow;
  EXPECT_THAT(MessageOf(OneBoard(With(row, "size: 1", "size: 2"))), HasSubstr("memory unit"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "sm_count: 4", "sm_count: 9"))), HasSubstr("SMs"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "copy: 1", "ofa: 1"))), HasSubstr("engines"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "mib: 4096", "mib: 9000"))), HasSubstr("memory"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "[0, 1]", "[1, 0]"))), HasSubstr("ascending"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "[0, 1]", "[]"))), HasSubstr("at least one"));
  EXPECT_THAT(MessageOf(OneBoard(With(row, "name: 1g", "name: 2g"))), HasSubstr("compute slices"));
  EXPECT_THAT(MessageOf(OneBoard(row + "\n        - " + row)), HasSubstr("given twice"));
}

TEST(ParseBoardsTest, SaysWhereAnUnknownKeyStands) {
  EXPECT_THAT(MessageOf(OneBoard(kGoodRow, "    pirce_usd_hour: 3\n")), HasSubstr("toy.yaml:15:"));
}

TEST(ParseBoardsTest, RefusesAnotherVersionAndAPciIdThatIsNotHexadecimal) {
  EXPECT_THAT(MessageOf(With(OneBoard(kGoodRow), "boards/v1", "boards/v2")), HasSubstr("v2"));
  EXPECT_THAT(MessageOf(With(OneBoard(kGoodRow), "ABCD", "ABCG")), HasSubstr("ABCG"));
  EXPECT_THAT(MessageOf(With(OneBoard(kGoodRow), "\"9.0\"", "\"9\"")), HasSubstr("9"));
}

}  // namespace
}  // namespace sublet
