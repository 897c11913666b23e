// Quoting, held against the real thing: sh, Python's YAML reader, shellcheck.

#include "render/quoting.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "child_process.h"
#include "plan_builder.h"
#include "render/render.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

// Strings of pieces that some reader would interpret, and of plain letters.
rc::Gen<std::string> Text() {
  const auto piece = rc::gen::elementOf(std::vector<std::string>{
      "a",      "Z", "0",      "1e3", " ",    "  ",   "\n",  "\t",   "'",        "\"",
      "\\",     "`", "$",      "$(",  ")",    "${X}", "$$",  "#",    " #",       ":",
      ": ",     "-", "- ",     "?",   "!",    "&",    "*",   "|",    ">",        "<",
      ";",      "%", "%h",     "~",   "~/",   "{",    "}",   "[",    "]",        ",",
      "@",      "=", "yes",    "no",  "null", "~",    ".",   "0x1F", "1_000",    "true",
      "\u00e9", "✓", "\u00a0", "😀",   "\\n",  "<<",   "---", "...",  "\xc2\xb2", "='"});
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(piece),
                      [](const std::vector<std::string>& pieces) {
                        return fmt::format("{}", fmt::join(pieces, ""));
                      });
}

// What a YAML reader that isn't ours makes of a text, as JSON.
ordered_json ReadByPython(const std::string& yaml) {
  const TemporaryFolder folder;
  WriteAll(folder / "in.yaml", yaml);
  const Finished done = RunProgram(
      {"python3", "-c",
       "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)",
       folder / "in.yaml"});
  EXPECT_EQ(done.status, 0) << done.err << yaml;
  return ordered_json::parse(done.out, nullptr, false);
}

RC_GTEST_PROP(ShellQuote, GivesShBackEveryWord, ()) {
  const std::vector<std::string> words = *rc::gen::container<std::vector<std::string>>(Text());
  std::string script = "for word in";
  for (const std::string& word : words) script += " " + ShellQuote(word);
  script += "; do printf '%s\\000' \"$word\"; done";
  const Finished done = RunProgram({"sh", "-c", script});
  std::string expected;
  for (const std::string& word : words) expected += word + '\0';
  RC_ASSERT(done.out == expected);
}

TEST(ShellQuote, LeavesPlainWordsBare) {
  EXPECT_EQ(ShellQuote("--port=8000"), "--port=8000");
  EXPECT_EQ(ShellQuote("it's"), "'it'\\''s'");
  EXPECT_EQ(ShellQuote(""), "''");
}

RC_GTEST_PROP(YamlText, GivesAnotherReaderTheSameValue, ()) {
  ordered_json value;
  for (const std::string& text : *rc::gen::container<std::vector<std::string>>(Text())) {
    value["list"].push_back(text);
    value["map"][text] = {{text, "x"}};
  }
  value["number"] = 7;
  value["flag"] = true;
  value["empty map"] = ordered_json::object();
  value["empty list"] = ordered_json::array();
  RC_ASSERT(ReadByPython(YamlText(value)) == ordered_json::array({value}));
}

TEST(YamlText, KeepsStringsStrings) {
  for (const char* text : {"true", "no", "1", "1e3", "0x10", "null", "", "~", "2024-01-01",
                           "1g.10gb", "=", "<<", "12:30", ".5", "_1"}) {
    const ordered_json value = {{"key", text}};
    EXPECT_EQ(ReadByPython(YamlText(value)), ordered_json::array({value})) << text;
  }
}

TEST(Comment, CanNotBeLeft) {
  EXPECT_EQ(Comment("one\nset -x\r\ntwo"), "# one set -x two\n");
  const std::string wrapped = Comment(std::string(60, 'a') + " " + std::string(60, 'b'));
  EXPECT_EQ(wrapped, "# " + std::string(60, 'a') + "\n# " + std::string(60, 'b') + "\n");
}

TEST(CheckText, RefusesWhatSomeFormatCanNotHold) {
  EXPECT_TRUE(CheckText("tab\tnewline\n caf\u00e9 😀", "x"));
  for (const std::string& bad :
       {std::string("nul\0", 4), std::string("\x1b[0m"), std::string("\r"), std::string("\x7f"),
        std::string("\xff"), std::string("\xc3"), std::string("\xed\xa0\x80"),
        std::string("\xc0\xaf"), std::string("\u2028"), std::string("\uFEFF"),
        std::string("\uFFFE")}) {
    const Status status = CheckText(bad, "workload x: command");
    ASSERT_FALSE(status) << bad;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(status.error().message, HasSubstr("workload x: command"));
  }
}

Plan PlanWith(const std::vector<std::string>& words, const std::string& value) {
  PlanBuilder build("any");
  std::vector<std::string> command = {"printf", "%s\\000"};
  command.insert(command.end(), words.begin(), words.end());
  build.AddWorkload("a", command).env["VALUE"] = value;
  build.AddReplica(build.AddWhole(build.AddGpu("gpu0", "h200", "host"), SharingMode::kExclusive),
                   {.workload = "a"});
  return build.plan();
}

// Without the care, and the waiting for the disk, of WriteRendering().
void WriteQuickly(const Rendering& rendering, const TemporaryFolder& folder) {
  for (const RenderedFile& file : rendering.files) {
    const std::filesystem::path path = folder / file.path;
    std::filesystem::create_directories(path.parent_path());
    WriteAll(path, file.content);
    std::filesystem::permissions(path, std::filesystem::perms(file.mode));
  }
}

// The rendered start script of the replica, run: the program gets its words as they were.
RC_GTEST_PROP(ReplicaScript, HandsTheCommandItsWords, ()) {
  std::vector<std::string> words =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(Text()));
  const Result<Rendering> out = Render(PlanWith(words, "v"), Target::kLinux, {});
  RC_ASSERT(out.has_value());
  const TemporaryFolder folder;
  WriteQuickly(*out, folder);
  const Finished done = RunProgram({folder / "host/replicas/a-0"});
  std::string expected;
  for (const std::string& word : words) expected += word + '\0';
  RC_ASSERT(done.out == expected);
}

RC_GTEST_PROP(ReplicaScript, PassesShellcheckWhateverTheCommand, ()) {
  const std::vector<std::string> words = *rc::gen::container<std::vector<std::string>>(Text());
  const Result<Rendering> out = Render(PlanWith(words, *Text()), Target::kLinux, {});
  RC_ASSERT(out.has_value());
  const TemporaryFolder folder;
  WriteQuickly(*out, folder);
  const Finished done = RunProgram({"shellcheck", folder / "host/replicas/a-0"});
  if (done.status != 0) RC_FAIL(done.out);
}

// What a kubelet makes of a command: "$$" is a dollar, "$(NAME)" a variable.
std::string ExpandedByKubernetes(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '$' || i + 1 == text.size()) {
      out += text[i];
    } else if (text[i + 1] == '$') {
      out += text[++i];
    } else if (text[i + 1] == '(') {
      return "expanded";
    } else {
      out += text[i];
    }
  }
  return out;
}

RC_GTEST_PROP(KubernetesLiteral, IsNeverExpanded, ()) {
  const std::string text = *Text();
  RC_ASSERT(ExpandedByKubernetes(KubernetesLiteral(text)) == text);
}

RC_GTEST_PROP(Deployments, CarryCommandAndEnvironmentUnchanged, ()) {
  const std::vector<std::string> words = *rc::gen::container<std::vector<std::string>>(Text());
  const std::string value = *Text();
  const Result<Rendering> out = Render(PlanWith(words, value), Target::kKubernetes, {});
  RC_ASSERT(out.has_value());
  const ordered_json pod = ReadByPython(out->files.front().content)[0]["spec"]["template"]["spec"];
  const ordered_json container = pod["containers"][0];
  std::vector<std::string> got;
  for (const ordered_json& word : container["command"]) {
    got.push_back(ExpandedByKubernetes(word.get<std::string>()));
  }
  std::vector<std::string> expected = {"printf", "%s\\000"};
  expected.insert(expected.end(), words.begin(), words.end());
  RC_ASSERT(got == expected);
  RC_ASSERT(ExpandedByKubernetes(container["env"][0]["value"].get<std::string>()) == value);
}

}  // namespace
}  // namespace sublet
