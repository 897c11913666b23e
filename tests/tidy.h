// tests/tidy.h
//
// The rules of STYLE.md that a machine can check, each a function of text.
//
//   const std::vector<Finding> findings = CheckLines({"src/plan/pack.cc", text});
//   // src/plan/pack.cc:12: longer than 100 columns: ...
//
// The rules work on lines and on code whose comments and literals are blanked out, not on a syntax
// tree: they are quick, run in every test run, and where one is wrong about a line, writing that
// line more simply is the way out. tests/tidy_test.cc runs them over the repository, and each over
// a bad sample, which shows that it can fail.
//
// Thread safety: no shared state.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sublet::tidy {

struct SourceFile {
  std::string path;  // From the repository's root: "src/plan/pack.cc".
  std::string text;
};

struct Finding {
  std::string path;
  int line = 0;  // 1-based; 0: the file as a whole.
  std::string what;

  friend bool operator==(const Finding&, const Finding&) = default;
};

// "path:line: what".
std::string Format(const Finding& finding);

// `text` with the content of comments, string and character literals (raw ones too) replaced by
// spaces. Lines and columns stay where they are.
std::string BlankCommentsAndLiterals(std::string_view text);

// Of src/README.md: what each module may include, in the table's order.
struct ModuleTable {
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> may_include;  // "all" is already spelt out.
};
ModuleTable ParseModuleTable(std::string_view readme);

// The module of "src/plan/tests/x.cc" is "plan", of "sim/engine/x.cc" "engine"; "sim" for
// sim/driver/**, which is no module; empty elsewhere.
std::string ModuleOf(std::string_view path);

// --- for C++ and C files ---

// #include "module/..." and, for CMakeLists.txt, sublet_MODULE: only what the table allows.
std::vector<Finding> CheckLayers(const SourceFile& file, const ModuleTable& table);
// Calls that belong to one place or nowhere: the clock, std::rand, exit, printf, in src/ and sim/.
std::vector<Finding> CheckBannedCalls(const SourceFile& file);
// Functions of more than kFunctionLinesMax lines, from the line of the name to the closing brace.
std::vector<Finding> CheckFunctionLength(const SourceFile& file);
// Headers: the first line is "// path", and #pragma once follows the opening comment.
std::vector<Finding> CheckHeaderForm(const SourceFile& file);
// Loops over unordered containers in plan/ and render/, whose output must not depend on a hash.
std::vector<Finding> CheckUnorderedIteration(const SourceFile& file);
// Values made by braces, and lambdas that capture more than references and `this`, within an
// expression that has a co_await in it: GCC 12 destroys them twice. A name for them is the way out.
std::vector<Finding> CheckCoAwait(const SourceFile& file);

// Types of the same name in two modules' headers. All are in one namespace, and the linker takes
// one of the two for both: the program then reads one's fields at the other's offsets.
std::vector<Finding> CheckTypesAreUnique(const std::vector<SourceFile>& files);

// --- for any text file ---

// Lines over 100 columns (code only), unfinished-work markers, paths of somebody's machine, tabs in
// code, blanks at the end of lines.
std::vector<Finding> CheckLines(const SourceFile& file);
// Markdown: `src/...` and other paths from the root in backquotes, and relative links. `exists`
// tells whether a path from the root is there. Text with <, * or … in it is a pattern, not a path.
std::vector<Finding> CheckDocumentPaths(const SourceFile& file,
                                        const std::function<bool(const std::string&)>& exists);
// File names that say nothing: *utils*, *helpers*, *common*; blanks in names.
std::vector<Finding> CheckName(std::string_view path);

inline constexpr int kFunctionLinesMax = 70;  // What fits a screen.
inline constexpr int kColumnsMax = 100;

}  // namespace sublet::tidy
