#include "tidy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <utility>

namespace sublet::tidy {
namespace {

bool IsWordCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix);
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  return text;
}

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.emplace_back(Trim(text.substr(begin, end - begin)));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string_view BaseName(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

bool IsHeader(std::string_view path) {
  return path.ends_with(".h");
}

bool IsCode(std::string_view path) {
  return IsHeader(path) || path.ends_with(".cc") || path.ends_with(".c") ||
         path.ends_with(".cmake") || BaseName(path) == "CMakeLists.txt" || path.ends_with(".sh") ||
         path.ends_with(".py") || path.ends_with(".ts") || path == "dev" || path == ".ci/run";
}

bool IsBesideTheModule(std::string_view path) {
  return path.find("/tests/") != std::string_view::npos ||
         path.find("/bench/") != std::string_view::npos ||
         path.find("/fuzz/") != std::string_view::npos;
}

bool Matches(std::string_view text, const std::regex& pattern) {
  return std::regex_search(text.begin(), text.end(), pattern);
}

// The end of the literal or comment that begins at `begin`, one past its last character; `begin`
// itself where none begins there.
std::size_t EndOfBlank(std::string_view text, std::size_t begin) {
  const std::string_view rest = text.substr(begin);
  const auto past = [&](std::string_view mark, std::size_t from) {
    const std::size_t at = text.find(mark, from);
    return at == std::string_view::npos ? text.size() : at + mark.size();
  };
  if (StartsWith(rest, "//")) return std::min(text.find('\n', begin), text.size());
  if (StartsWith(rest, "/*")) return past("*/", begin + 2);
  const bool after_word = begin > 0 && IsWordCharacter(text[begin - 1]);
  if (StartsWith(rest, "R\"") && !after_word) {
    const std::size_t open = text.find('(', begin);
    if (open == std::string_view::npos) return text.size();
    return past(")" + std::string(text.substr(begin + 2, open - begin - 2)) + "\"", open);
  }
  // A quote after a digit or letter separates digits: 100'000.
  if (rest.front() != '"' && (rest.front() != '\'' || after_word)) return begin;
  std::size_t at = begin + 1;
  while (at < text.size() && text[at] != rest.front() && text[at] != '\n') {
    at += text[at] == '\\' ? 2 : 1;
  }
  return std::min(at + 1, text.size());
}

std::string BlankPreprocessor(std::string text) {
  bool continued = false;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const bool directive = continued || StartsWith(Trim(line), "#");
    continued = directive && line.ends_with('\\');
    if (directive) std::fill(text.begin() + begin, text.begin() + end, ' ');
    begin = end + 1;
  }
  return text;
}

// What an opening brace outside of functions begins.
enum class Scope { kContainer, kFunction, kOther };

Scope ScopeOf(std::string_view statement) {
  static const std::regex kContainerPattern(
      R"(\bnamespace\b|^\s*extern\b[^(]*$|^(template\s*<.*>)?\s*(typedef\s+)?)"
      R"((class|struct|union|enum)\b[^()]*$)");
  static const std::regex kFunctionPattern(R"(^[^=(]*(\boperator\b[^\w]+)?\()");
  if (Matches(statement, kContainerPattern)) return Scope::kContainer;
  return Matches(statement, kFunctionPattern) ? Scope::kFunction : Scope::kOther;
}

struct OpenBrace {
  Scope scope = Scope::kOther;
  int first_line = 0;
};

bool AllContainers(const std::vector<OpenBrace>& open) {
  return std::all_of(open.begin(), open.end(),
                     [](const OpenBrace& brace) { return brace.scope == Scope::kContainer; });
}

struct Ban {
  std::regex pattern;
  std::string_view instead;
  std::vector<std::string_view> allowed;  // Prefixes of paths.
};

const std::vector<Ban>& Bans() {
  static const std::vector<Ban> kBans = {
      {std::regex(R"(_clock::now\b|\bgettimeofday\s*\(|\bclock_gettime\s*\()"),
       "time is a parameter: take a Clock, or a time",
       {"src/base/clock", "src/exe/", "src/guard/", "sim/"}},
      {std::regex(R"(\bs?rand\s*\(|\brandom_device\b)"), "take a seed", {}},
      {std::regex(R"(\b(_exit|exit|quick_exit|abort|terminate)\s*\()"),
       "return a Result, or CHECK",
       {"src/base/check.cc", "src/exe/"}},
      {std::regex(R"(\bv?f?printf\s*\(|\bf?puts\s*\(|\bstd::(cout|cerr)\b|\bfmt::print\b)"),
       "libraries return what they have to say; src/exe prints it",
       {"src/base/check.cc", "src/exe/"}},
      {std::regex(R"(\bsystem\s*\(|\bpopen\s*\()"), "start programs without a shell", {}},
      {std::regex(R"(\bassert\s*\()"), "use CHECK, which stays on in release", {}},
  };
  return kBans;
}

std::set<std::string> UnorderedNames(std::string_view code) {
  static const std::regex kDeclaration(
      R"(\bunordered_(?:multi)?(?:map|set)\s*<[^;{}()]*>[\s&]*(\w+))");
  std::set<std::string> names;
  const std::string text(code);
  for (std::sregex_iterator it(text.begin(), text.end(), kDeclaration), end; it != end; ++it) {
    names.insert((*it)[1]);
  }
  return names;
}

// From `at` to the end of the statement, or of the parentheses that the expression stands in.
std::size_t ExpressionLength(std::string_view code, std::size_t at) {
  int depth = 0;
  std::size_t end = at;
  for (; end < code.size(); ++end) {
    const char c = code[end];
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') --depth;
    if (depth < 0 || (c == ';' && depth == 0)) break;
  }
  return end - at;
}

}  // namespace

std::string Format(const Finding& finding) {
  return fmt::format("{}:{}: {}", finding.path, finding.line, finding.what);
}

std::string BlankCommentsAndLiterals(std::string_view text) {
  std::string code(text);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = EndOfBlank(text, at);
    for (std::size_t i = at; i < end; ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
    at = std::max(end, at + 1);
  }
  return code;
}

ModuleTable ParseModuleTable(std::string_view readme) {
  ModuleTable table;
  std::vector<std::string> unrestricted;
  bool in_table = false;
  for (const std::string_view line : Lines(readme)) {
    const std::vector<std::string> cells = Split(line, '|');
    if (cells.size() < 5 || cells[1].starts_with("-")) continue;
    if (cells[1] == "module") {
      in_table = cells[3] == "may include";
      continue;
    }
    if (!in_table) continue;
    table.order.push_back(cells[1]);
    std::vector<std::string>& allowed = table.may_include[cells[1]];
    if (cells[3] == "all") {
      unrestricted.push_back(cells[1]);
    } else if (cells[3] != "-") {
      allowed = Split(cells[3], ',');
    }
  }
  for (const std::string& module : unrestricted) table.may_include[module] = table.order;
  return table;
}

std::string ModuleOf(std::string_view path) {
  const std::vector<std::string> parts = Split(path, '/');
  if (parts.size() >= 3 && parts[0] == "src") return parts[1];
  if (parts[0] != "sim") return "";
  return parts.size() >= 3 && parts[1] != "driver" ? parts[1] : "sim";
}

std::vector<Finding> CheckLayers(const SourceFile& file, const ModuleTable& table) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s+"([^"/]+)/)re");
  static const std::regex kLink(R"(\bsublet_([a-z]+)\b)");
  const std::string module = ModuleOf(file.path);
  if (module.empty()) return {};
  const auto entry = table.may_include.find(module);
  // Of sim/, which is not in the table: the values, and the interfaces that it stands in for.
  std::vector<std::string> allowed = {"base", "model", "inventory", "measure"};
  if (module != "sim") {
    if (entry == table.may_include.end()) {
      return {{file.path, 0, fmt::format("module missing in src/README.md: {}", module)}};
    }
    allowed = entry->second;
  }
  std::vector<Finding> findings;
  const bool cmake = BaseName(file.path) == "CMakeLists.txt";
  const std::vector<std::string_view> lines = Lines(file.text);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::match_results<std::string_view::const_iterator> match;
    if (!std::regex_search(lines[i].begin(), lines[i].end(), match, cmake ? kLink : kInclude)) {
      continue;
    }
    const std::string target = match[1];
    const bool known = table.may_include.contains(target);
    if (!known || target == module) continue;
    if (std::find(allowed.begin(), allowed.end(), target) == allowed.end()) {
      findings.push_back({file.path, static_cast<int>(i) + 1,
                          fmt::format("{} may not use {} (src/README.md)", module, target)});
    }
  }
  return findings;
}

std::vector<Finding> CheckBannedCalls(const SourceFile& file) {
  if (ModuleOf(file.path).empty() || IsBesideTheModule(file.path)) return {};
  std::vector<Finding> findings;
  const std::string code = BlankCommentsAndLiterals(file.text);
  const std::vector<std::string_view> lines = Lines(code);
  for (const Ban& ban : Bans()) {
    const bool exempt = std::any_of(ban.allowed.begin(), ban.allowed.end(),
                                    [&](auto prefix) { return StartsWith(file.path, prefix); });
    if (exempt) continue;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (!Matches(lines[i], ban.pattern)) continue;
      findings.push_back(
          {file.path, static_cast<int>(i) + 1, fmt::format("banned call: {}", ban.instead)});
    }
  }
  return findings;
}

std::vector<Finding> CheckFunctionLength(const SourceFile& file) {
  static const std::regex kLabel(R"(\b(public|private|protected)\s*$)");
  std::vector<Finding> findings;
  const std::string code = BlankPreprocessor(BlankCommentsAndLiterals(file.text));
  std::vector<OpenBrace> open;
  std::string statement;  // What stands before the next brace, outside of functions.
  int statement_line = 0;
  int line = 1;
  const auto reset = [&] { statement.clear(), statement_line = 0; };
  for (const char c : code) {
    if (c == '{') {
      const Scope scope = AllContainers(open) ? ScopeOf(statement) : Scope::kOther;
      open.push_back({scope, statement_line == 0 ? line : statement_line});
      reset();
    } else if (c == '}' && !open.empty()) {
      const OpenBrace brace = open.back();
      open.pop_back();
      const int length = line - brace.first_line + 1;
      if (brace.scope == Scope::kFunction && length > kFunctionLinesMax) {
        findings.push_back(
            {file.path, brace.first_line,
             fmt::format("function of {} lines, at most {}", length, kFunctionLinesMax)});
      }
      reset();
    } else if (c == ';' || (c == ':' && Matches(statement, kLabel))) {
      reset();
    } else if (c == '\n') {
      ++line;
      if (!statement.empty()) statement += ' ';
    } else if (!statement.empty() || c != ' ') {
      if (statement.empty()) statement_line = line;
      statement += c;
    }
  }
  return findings;
}

std::vector<Finding> CheckHeaderForm(const SourceFile& file) {
  if (!IsHeader(file.path)) return {};
  const std::string_view path = file.path;
  const std::vector<std::string_view> lines = Lines(file.text);
  const std::string from_src =
      fmt::format("// {}", StartsWith(path, "src/") ? path.substr(4) : path);
  std::vector<Finding> findings;
  if (lines.empty() || lines[0] != from_src) {
    findings.push_back({file.path, 1, fmt::format("a header begins with: {}", from_src)});
  }
  const auto first_code = std::find_if(lines.begin(), lines.end(), [](std::string_view line) {
    return !line.empty() && !StartsWith(line, "//");
  });
  if (first_code == lines.end() || *first_code != "#pragma once") {
    findings.push_back({file.path, 1, "#pragma once follows a header's opening comment"});
  }
  return findings;
}

std::vector<Finding> CheckUnorderedIteration(const SourceFile& file) {
  const std::string module = ModuleOf(file.path);
  if ((module != "plan" && module != "render") || IsBesideTheModule(file.path)) return {};
  std::vector<Finding> findings;
  const std::string code = BlankCommentsAndLiterals(file.text);
  const std::vector<std::string_view> lines = Lines(code);
  for (const std::string& name : UnorderedNames(code)) {
    const std::regex loop(
        fmt::format(R"((:\s*(\w+(\.|->))*{0}\s*\)|\b{0}(\.|->)c?begin\s*\())", name));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (!Matches(lines[i], loop)) continue;
      findings.push_back({file.path, static_cast<int>(i) + 1,
                          fmt::format("order of a hash table reaches the output: {}", name)});
    }
  }
  return findings;
}

std::vector<Finding> CheckCoAwait(const SourceFile& file) {
  // What has nothing to destroy is safe: references, `this`, no captures at all; and so is `{}`.
  static const std::regex kOwningLambda(R"([(,]\s*\[(?:[^\]]*[,\s])?(?!this\b)[\w=*][^\]]*\])");
  static const std::regex kBraces(R"(((\b[A-Z]\w*)|[(,]\s*)\{\s*[^}\s])");
  std::vector<Finding> findings;
  const std::string code = BlankCommentsAndLiterals(file.text);
  constexpr std::string_view kAwait = "co_await";
  for (std::size_t at = code.find(kAwait); at != std::string::npos;
       at = code.find(kAwait, at + 1)) {
    if (at > 0 && IsWordCharacter(code[at - 1])) continue;
    const std::string expression = code.substr(at, ExpressionLength(code, at));
    if (!std::regex_search(expression, kOwningLambda) && !std::regex_search(expression, kBraces)) {
      continue;
    }
    const auto line =
        1 + std::count(code.begin(), code.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    findings.push_back({file.path, static_cast<int>(line),
                        "made inside a co_await, GCC 12 destroys it twice: give it a name first"});
  }
  return findings;
}

std::vector<Finding> CheckTypesAreUnique(const std::vector<SourceFile>& files) {
  // At the margin: members of a class and of a nested namespace of one's own don't collide.
  static const std::regex kType(R"(^(?:struct|class|enum class) (\w+)[^;]*\{)");
  static const std::regex kNamespace(R"(^namespace ([\w:]+) \{)");
  std::map<std::string, std::string> first_in;
  std::vector<Finding> findings;
  for (const SourceFile& file : files) {
    if (!IsHeader(file.path) || ModuleOf(file.path).empty()) continue;
    std::string space;
    const std::vector<std::string_view> lines = Lines(file.text);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      std::match_results<std::string_view::const_iterator> match;
      if (std::regex_search(lines[i].begin(), lines[i].end(), match, kNamespace)) space = match[1];
      if (!std::regex_search(lines[i].begin(), lines[i].end(), match, kType)) continue;
      const std::string name = space + "::" + match[1].str();
      const auto [known, added] = first_in.emplace(name, file.path);
      if (added) continue;
      findings.push_back({file.path, static_cast<int>(i) + 1,
                          fmt::format("{} is also in {}", name, known->second)});
    }
  }
  return findings;
}

std::vector<Finding> CheckLines(const SourceFile& file) {
  // Spelt in two pieces, so that this file passes itself.
  static const std::regex kUnfinished(R"(\b(TO)"
                                      R"(DO|FIX)"
                                      R"(ME|HA)"
                                      R"(CK)\b)");
  static const std::regex kMachinePath(R"((^|[^\w./-])/(work|home|Users|root)/)");
  std::vector<Finding> findings;
  const std::vector<std::string_view> lines = Lines(file.text);
  const bool code = IsCode(file.path);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const auto add = [&](std::string what) {
      findings.push_back({file.path, static_cast<int>(i) + 1, std::move(what)});
    };
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // Not a continuation byte of UTF-8.
    });
    if (code && columns > kColumnsMax) add(fmt::format("longer than {} columns", kColumnsMax));
    if (code && line.ends_with(' ')) add("blanks at the end of the line");
    if (code && line.find('\t') != std::string_view::npos) add("tab");
    if (Matches(line, kUnfinished)) add("unfinished work: finish it, or write an issue");
    if (Matches(line, kMachinePath)) add("a path of somebody's machine");
  }
  return findings;
}

std::vector<Finding> CheckDocumentPaths(const SourceFile& file,
                                        const std::function<bool(const std::string&)>& exists) {
  static const std::regex kPath(R"(`((?:src|sim|docs|data|tests|examples|cmake|web)/[\w./-]*)`)");
  static const std::regex kLink(R"(\]\(([\w./-]+)(?:#[\w-]*)?\))");
  if (!file.path.ends_with(".md")) return {};
  const std::string folder = file.path.substr(0, file.path.rfind('/') + 1);
  std::vector<Finding> findings;
  const std::vector<std::string_view> lines = Lines(file.text);
  const auto check = [&](std::size_t i, const std::regex& pattern) {
    const std::string line(lines[i]);
    for (std::sregex_iterator it(line.begin(), line.end(), pattern), end; it != end; ++it) {
      const std::string path = (*it)[1];
      if (path.find("...") != std::string::npos || exists(path) || exists(folder + path)) continue;
      findings.push_back(
          {file.path, static_cast<int>(i) + 1, fmt::format("no such file: {}", path)});
    }
  };
  for (std::size_t i = 0; i < lines.size(); ++i) {
    check(i, kPath);
    check(i, kLink);
  }
  return findings;
}

std::vector<Finding> CheckName(std::string_view path) {
  static const std::regex kVague(R"((^|_|-)(utils?|helpers?|common|misc)(_|-|\.|$))");
  std::vector<Finding> findings;
  if (Matches(BaseName(path), kVague)) {
    findings.push_back({std::string(path), 0, "name it after what is in it"});
  }
  if (path.find(' ') != std::string_view::npos) {
    findings.push_back({std::string(path), 0, "blank in a file name"});
  }
  return findings;
}

}  // namespace sublet::tidy
