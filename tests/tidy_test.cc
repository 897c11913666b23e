// Holds the repository to the rules of STYLE.md that a machine can check.
//
// Each rule is run twice: over a bad sample, which it must find, and over every file of the
// repository, where it must find nothing.

#include "tidy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace sublet::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

namespace fs = std::filesystem;

const fs::path kRoot = SUBLET_SOURCE_DIR;

// Everything that people write here; what is generated or fetched lies elsewhere or is skipped.
std::vector<std::string> RepositoryPaths() {
  const std::set<std::string> roots = {"src",      "sim", "tests",  "cmake", "docs", "data",
                                       "examples", "web", "deploy", "proto", ".ci"};
  const std::set<std::string> skipped = {"node_modules", "dist", "__pycache__", "images", "corpus"};
  std::vector<std::string> paths;
  for (const fs::directory_entry& top : fs::directory_iterator(kRoot)) {
    const std::string name = top.path().filename();
    // Of a worktree, .git is a file with the path of its repository.
    if (top.is_regular_file() && name != ".git") paths.push_back(name);
    if (!top.is_directory() || !roots.contains(name)) continue;
    fs::recursive_directory_iterator it(top.path());
    for (; it != fs::recursive_directory_iterator(); ++it) {
      if (it->is_directory() && skipped.contains(it->path().filename())) {
        it.disable_recursion_pending();
      } else if (it->is_regular_file()) {
        paths.push_back(fs::relative(it->path(), kRoot));
      }
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string Read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

const std::vector<SourceFile>& Repository() {
  static const auto* const kFiles = [] {
    auto* files = new std::vector<SourceFile>;
    for (const std::string& path : RepositoryPaths()) files->push_back({path, Read(kRoot / path)});
    return files;
  }();
  return *kFiles;
}

bool IsCxx(const SourceFile& file) {
  return file.path.ends_with(".h") || file.path.ends_with(".cc") || file.path.ends_with(".c");
}

// What `rule` finds in the files that `applies` picks, one finding a line.
std::string FindAll(const std::function<bool(const SourceFile&)>& applies,
                    const std::function<std::vector<Finding>(const SourceFile&)>& rule) {
  std::string report;
  for (const SourceFile& file : Repository()) {
    if (!applies(file)) continue;
    for (const Finding& finding : rule(file)) report += Format(finding) + "\n";
  }
  return report;
}

void ExpectNone(const std::string& findings) {
  EXPECT_TRUE(findings.empty()) << findings;
}

ModuleTable Table() {
  return ParseModuleTable(Read(kRoot / "src/README.md"));
}

ModuleTable SampleTable() {
  return ParseModuleTable(
      "| module | one line | may include |\n"
      "|---|---|---|\n"
      "| base | b | - |\n"
      "| plan | p | base |\n"
      "| exe | e | all |\n");
}

TEST(TidyText, BlanksCommentsAndLiteralsAndKeepsThePlaces) {
  EXPECT_EQ(BlankCommentsAndLiterals("a(\"x\\\"y\") // b\nc"), "a(      )     \nc");
  EXPECT_EQ(BlankCommentsAndLiterals("1'000 + '\\''; /* x\ny */ z"), "1'000 +     ;     \n     z");
  EXPECT_EQ(BlankCommentsAndLiterals("R\"q(\n\")\" )q\" + x"), "    \n        + x");
}

TEST(TidyText, ReadsTheModuleTable) {
  const ModuleTable table = SampleTable();
  EXPECT_THAT(table.order, ElementsAre("base", "plan", "exe"));
  EXPECT_THAT(table.may_include.at("base"), IsEmpty());
  EXPECT_THAT(table.may_include.at("plan"), ElementsAre("base"));
  EXPECT_THAT(table.may_include.at("exe"), ElementsAre("base", "plan", "exe"));
}

TEST(TidySample, FindsAnIncludeAgainstTheTable) {
  const std::string text = "#include \"base/result.h\"\n#include \"exe/program.h\"\n";
  EXPECT_THAT(CheckLayers({"src/plan/a.cc", text}, SampleTable()),
              ElementsAre(Finding{"src/plan/a.cc", 2, "plan may not use exe (src/README.md)"}));
  EXPECT_THAT(CheckLayers({"src/plan/tests/a_test.cc", text}, SampleTable()), SizeIs(1));
  EXPECT_THAT(CheckLayers({"src/exe/a.cc", text}, SampleTable()), IsEmpty());
  EXPECT_THAT(CheckLayers({"sim/driver/a.cc", "#include \"plan/a.h\"\n"}, SampleTable()),
              SizeIs(1));
}

TEST(TidySample, FindsALinkAgainstTheTable) {
  EXPECT_THAT(
      CheckLayers({"src/base/CMakeLists.txt", "sublet_library(base\n  DEPS sublet_plan)\n"},
                  SampleTable()),
      ElementsAre(Finding{"src/base/CMakeLists.txt", 2, "base may not use plan (src/README.md)"}));
}

TEST(TidySample, FindsAModuleThatTheTableLacks) {
  EXPECT_THAT(CheckLayers({"src/magic/a.cc", ""}, SampleTable()), SizeIs(1));
}

TEST(TidySample, FindsBannedCalls) {
  const auto lines = [](const std::string& path, const std::string& text) {
    std::vector<int> found;
    for (const Finding& finding : CheckBannedCalls({path, text})) found.push_back(finding.line);
    return found;
  };
  EXPECT_THAT(lines("src/plan/a.cc", "auto t = std::chrono::system_clock::now();"), ElementsAre(1));
  EXPECT_THAT(lines("src/plan/a.cc", "\nint i = std::rand();"), ElementsAre(2));
  EXPECT_THAT(lines("src/plan/a.cc", "printf(\"x\");"), ElementsAre(1));
  EXPECT_THAT(lines("src/plan/a.cc", "std::exit(1);"), ElementsAre(1));
  EXPECT_THAT(lines("src/plan/a.cc", "system(command);"), ElementsAre(1));
  EXPECT_THAT(lines("src/plan/a.cc", "assert(x);"), ElementsAre(1));
  EXPECT_THAT(lines("src/plan/a.cc", "// exit(1)\nsnprintf(b, 1, \"printf(\"); static_assert(1);"),
              IsEmpty());
  EXPECT_THAT(lines("src/exe/a.cc", "printf(\"x\");"), IsEmpty());
  EXPECT_THAT(lines("src/plan/tests/a_test.cc", "std::exit(1);"), IsEmpty());
}

std::string FunctionOf(int lines) {
  std::string text = "namespace n {\nclass C {\n public:\n  int F(int a,\n        int b) const {\n";
  for (int i = 0; i < lines - 3; ++i) text += "    if (a) { b; }\n";
  return text + "  }\n};\n}\n";
}

TEST(TidySample, FindsALongFunction) {
  EXPECT_THAT(CheckFunctionLength({"a.cc", FunctionOf(kFunctionLinesMax)}), IsEmpty());
  EXPECT_THAT(CheckFunctionLength({"a.cc", FunctionOf(kFunctionLinesMax + 1)}),
              ElementsAre(Finding{"a.cc", 4, "function of 71 lines, at most 70"}));
}

TEST(TidySample, TakesALongTableForNoFunction) {
  std::string table = "constexpr int kTable[] = {\n";
  for (int i = 0; i < 100; ++i) table += "  F(1),\n";
  EXPECT_THAT(CheckFunctionLength({"a.cc", table + "};\n"}), IsEmpty());
}

TEST(TidySample, FindsAHeaderWithoutItsForm) {
  const std::string good = "// plan/a.h\n//\n// What it is.\n#pragma once\n";
  EXPECT_THAT(CheckHeaderForm({"src/plan/a.h", good}), IsEmpty());
  EXPECT_THAT(CheckHeaderForm({"src/plan/b.h", good}), SizeIs(1));
  EXPECT_THAT(CheckHeaderForm({"src/plan/a.h", "// plan/a.h\n\nint x;\n"}), SizeIs(1));
}

TEST(TidySample, FindsALoopOverAHashTable) {
  const std::string declared = "std::unordered_map<int, std::vector<int>> counts;\n";
  EXPECT_THAT(
      CheckUnorderedIteration({"src/plan/a.cc", declared + "for (auto& [k, v] : counts) {"}),
      SizeIs(1));
  EXPECT_THAT(CheckUnorderedIteration({"src/plan/a.cc", declared + "V(counts.begin(), e);"}),
              SizeIs(1));
  EXPECT_THAT(CheckUnorderedIteration({"src/plan/a.cc", declared + "counts.find(1);"}), IsEmpty());
}

TEST(TidySample, FindsWhatIsMadeInsideACoAwait) {
  const auto found = [](const std::string& statement) {
    return CheckCoAwait({"src/node/a.cc", "Task<void> F() {\n  " + statement + "\n}\n"}).size();
  };
  EXPECT_EQ(found("co_await Say({code, \"a\"});"), 1u);
  EXPECT_EQ(found("co_await Say(Error{code, \"a\"});"), 1u);
  EXPECT_EQ(found("if (!co_await Say(1, Error{code})) return;"), 1u);
  EXPECT_EQ(found("co_await Run([wanted](int x) { return wanted; });"), 1u);
  EXPECT_EQ(found("co_await Run(\n      [this, wanted] { return 1; }, to);"), 1u);
  EXPECT_EQ(found("co_await Run([&a, b = std::move(c)] { return b; });"), 1u);
  EXPECT_EQ(found("co_await Run([=] { return b; });"), 1u);
  EXPECT_EQ(found("co_await Run([this](int x) { if (x) { Say(); } });"), 0u);
  EXPECT_EQ(found("co_await Run([&] { return 1; });"), 0u);
  EXPECT_EQ(found("co_await Run([&a, this] { return a; });"), 0u);
  EXPECT_EQ(found("co_await Run([] { return a[b]; });"), 0u);
  EXPECT_EQ(found("co_await Say(std::exchange(why_, {}), rows[i]);"), 0u);
  EXPECT_EQ(found("if (co_await Say(a)) { Error e{b}; }"), 0u);
  EXPECT_EQ(found("Error e{b};\n  co_await Say(e);  // {b}"), 0u);
}

TEST(TidySample, FindsTypesOfOneName) {
  const std::string seat = "namespace sublet {\nstruct Seat {\n  int x;\n};\n";
  EXPECT_THAT(CheckTypesAreUnique({{"src/plan/a.h", seat}, {"src/render/b.h", seat}}),
              ElementsAre(Finding{"src/render/b.h", 2, "sublet::Seat is also in src/plan/a.h"}));
  EXPECT_THAT(CheckTypesAreUnique({{"src/plan/a.h", seat},
                                   {"src/render/b.h", "namespace sublet {\nstruct Seat;\n"},
                                   {"sim/x/c.h", "namespace sublet::sim {\nstruct Seat {\n};\n"}}),
              IsEmpty());
}

TEST(TidySample, FindsBadLines) {
  const std::string mark = std::string("// FIX") + "ME later";
  const std::string path = std::string("x = \"/ho") + "me/me/x\"";
  EXPECT_THAT(CheckLines({"a.cc", std::string(100, 'x')}), IsEmpty());
  EXPECT_THAT(CheckLines({"a.cc", std::string(101, 'x')}), SizeIs(1));
  EXPECT_THAT(CheckLines({"a.md", std::string(101, 'x')}), IsEmpty());
  EXPECT_THAT(CheckLines({"a.md", mark}), SizeIs(1));
  EXPECT_THAT(CheckLines({"a.yaml", path}), SizeIs(1));
  EXPECT_THAT(CheckLines({"a.cc", "\tx \n"}), SizeIs(2));
}

TEST(TidySample, FindsPathsThatAreNotThere) {
  const auto exists = [](const std::string& path) {
    return path == "src/a.h" || path == "docs/b.md";
  };
  const std::string text = "`src/a.h` [b](b.md#top) `src/<module>/` `src/model/...`\n";
  EXPECT_THAT(CheckDocumentPaths({"docs/x.md", text}, exists), IsEmpty());
  EXPECT_THAT(CheckDocumentPaths({"docs/x.md", "`src/c.h`"}, exists), SizeIs(1));
  EXPECT_THAT(CheckDocumentPaths({"x.md", "[b](b.md)"}, exists), SizeIs(1));
}

TEST(TidySample, FindsNamesThatSayNothing) {
  EXPECT_THAT(CheckName("src/plan/plan_utils.h"), SizeIs(1));
  EXPECT_THAT(CheckName("src/plan/helpers.cc"), SizeIs(1));
  EXPECT_THAT(CheckName("docs/a b.md"), SizeIs(1));
  EXPECT_THAT(CheckName("src/plan/commonality.cc"), IsEmpty());
}

TEST(TidyRepository, IsThere) {
  EXPECT_GT(Repository().size(), 50u);
}

TEST(TidyRepository, TableNamesTheModulesThatExist) {
  std::set<std::string> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(kRoot / "src")) {
    if (entry.is_directory()) folders.insert(entry.path().filename());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(kRoot / "sim")) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && name != "driver") folders.insert(name);
  }
  const ModuleTable table = Table();
  EXPECT_EQ(std::set<std::string>(table.order.begin(), table.order.end()), folders);
}

// The table's order is the way of the data, so a module's row names only rows above it.
TEST(TidyRepository, TableHasNoModuleThatLooksForward) {
  const ModuleTable table = Table();
  std::set<std::string> above;
  for (const std::string& module : table.order) {
    for (const std::string& used : table.may_include.at(module)) {
      EXPECT_TRUE(above.contains(used) || used == module) << module << " before " << used;
    }
    above.insert(module);
  }
}

TEST(TidyRepository, LayersHold) {
  const ModuleTable table = Table();
  ExpectNone(FindAll(
      [](const SourceFile& file) { return IsCxx(file) || file.path.ends_with("CMakeLists.txt"); },
      [&](const SourceFile& file) { return CheckLayers(file, table); }));
}

TEST(TidyRepository, HasNoBannedCalls) {
  ExpectNone(FindAll(IsCxx, CheckBannedCalls));
}

TEST(TidyRepository, FunctionsFitAScreen) {
  ExpectNone(FindAll(IsCxx, CheckFunctionLength));
}

TEST(TidyRepository, TypesHaveNamesOfTheirOwn) {
  std::string report;
  for (const Finding& finding : CheckTypesAreUnique(Repository())) report += Format(finding) + "\n";
  ExpectNone(report);
}

TEST(TidyRepository, HeadersHaveTheirForm) {
  ExpectNone(FindAll(IsCxx, CheckHeaderForm));
}

TEST(TidyRepository, NothingIsMadeInsideACoAwait) {
  ExpectNone(FindAll(IsCxx, CheckCoAwait));
}

TEST(TidyRepository, NoHashOrderReachesOutput) {
  ExpectNone(FindAll(IsCxx, CheckUnorderedIteration));
}

TEST(TidyRepository, LinesAreClean) {
  ExpectNone(FindAll([](const SourceFile&) { return true; }, CheckLines));
}

TEST(TidyRepository, DocumentsNameFilesThatExist) {
  ExpectNone(FindAll([](const SourceFile&) { return true; },
                     [](const SourceFile& file) {
                       return CheckDocumentPaths(file, [](const std::string& path) {
                         return fs::exists(kRoot / path) || path.starts_with("web/dist");
                       });
                     }));
}

TEST(TidyRepository, NamesSayWhatIsInside) {
  ExpectNone(FindAll([](const SourceFile&) { return true; },
                     [](const SourceFile& file) { return CheckName(file.path); }));
}

TEST(TidyRepository, EachModuleHasAReadme) {
  for (const char* parent : {"src", "sim"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(kRoot / parent)) {
      if (!entry.is_directory()) continue;
      EXPECT_GT(Read(entry.path() / "README.md").size(), 100u) << entry.path();
    }
  }
}

}  // namespace
}  // namespace sublet::tidy
