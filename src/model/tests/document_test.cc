#include "model/document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ErrorOf(std::string_view text) {
  Result<Node> node = ParseDocument(text);
  return node ? "no error" : node.error().message;
}

Node Parsed(std::string_view text) {
  Result<Node> node = ParseDocument(text);
  EXPECT_TRUE(node) << node.error().message;
  return node ? *node : Node{};
}

std::string Repeated(std::string_view piece, std::size_t times) {
  std::string text;
  for (std::size_t i = 0; i < times; ++i) text += piece;
  return text;
}

TEST(DocumentTest, YamlAndJsonGiveTheSameTree) {
  for (const char* text : {"a: 1\nb:\n  - x\n  - null\n  - true\nc: {d: 'e'}\n",
                           R"({"a": 1, "b": ["x", null, true], "c": {"d": "e"}})"}) {
    const Node root = Parsed(text);
    ASSERT_EQ(root.kind, Node::Kind::kMap) << text;
    ASSERT_EQ(root.fields.size(), 3u);
    EXPECT_EQ(root.Find("a")->scalar, "1");
    EXPECT_FALSE(root.Find("a")->quoted);
    ASSERT_EQ(root.Find("b")->items.size(), 3u);
    EXPECT_EQ(root.Find("b")->items[0].scalar, "x");
    EXPECT_EQ(root.Find("b")->items[1].kind, Node::Kind::kNull);
    EXPECT_TRUE(*ReadBool(root.Find("b")->items[2]));
    EXPECT_EQ(root.Find("c")->Find("d")->scalar, "e");
    EXPECT_TRUE(root.Find("c")->Find("d")->quoted);
    EXPECT_EQ(root.Find("absent"), nullptr);
  }
}

TEST(DocumentTest, YamlMarksAreWhereTheValueAndItsKeyBegin) {
  const Node root = Parsed("a: 1\nlist:\n  - x\n  - key: value\n");
  EXPECT_EQ(root.mark.line, 1);
  EXPECT_EQ(root.Find("a")->mark.column, 4);
  const Node& value = *root.Find("list")->items[1].Find("key");
  EXPECT_EQ(value.mark.line, 4);
  EXPECT_EQ(value.mark.column, 10);
  EXPECT_EQ(value.key_mark.line, 4);
  EXPECT_EQ(value.key_mark.column, 5);
}

TEST(DocumentTest, JsonMarksAreWhereTheValueAndItsKeyBegin) {
  const Node root =
      Parsed("{\"a\": 12,\n \"b\" : [true,3 , \"x\\n\",{ \"c\":-1.5e3}],\n\"d\":null}");
  EXPECT_EQ(root.mark.line, 1);
  EXPECT_EQ(root.mark.column, 1);
  EXPECT_EQ(root.Find("a")->mark.column, 7);
  EXPECT_EQ(root.Find("a")->key_mark.column, 2);
  const Node& list = *root.Find("b");
  EXPECT_EQ(list.mark.line, 2);
  EXPECT_EQ(list.mark.column, 8);
  EXPECT_EQ(list.items[0].mark.column, 9);
  EXPECT_EQ(list.items[1].mark.column, 14);
  EXPECT_EQ(list.items[2].mark.column, 18);
  EXPECT_EQ(list.items[3].mark.column, 24);
  EXPECT_EQ(list.items[3].Find("c")->mark.column, 30);
  EXPECT_EQ(list.items[3].Find("c")->key_mark.column, 26);
  EXPECT_EQ(root.Find("d")->mark.line, 3);
  EXPECT_EQ(root.Find("d")->mark.column, 5);
}

TEST(DocumentTest, SyntaxErrorsSayWhere) {
  EXPECT_THAT(ErrorOf("a: [1, 2\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(ErrorOf("a: 1\n  b: 2\n"), StartsWith("2:4: not valid YAML"));
  EXPECT_THAT(ErrorOf("{\"a\": 1,\n \"b\" 2}"), StartsWith("2:6: not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\": 1"), StartsWith("1:7: not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\": 1} x"), StartsWith("1:10: not valid JSON"));
  EXPECT_THAT(ErrorOf("[1e999]"), HasSubstr("not valid JSON: number overflow"));
  EXPECT_EQ(ErrorOf(""), "1:1: the document is empty");
  EXPECT_EQ(ErrorOf(" \n\n"), "1:1: the document is empty");
  EXPECT_EQ(ErrorOf("# only a comment\n"), "1:1: the document is empty");
}

TEST(DocumentTest, EveryPrefixOfADocumentIsReadOrRefused) {
  const std::string json = R"({"a": [1, -2.5, {"b": "x\u00e4"}, null, true], "c": {}})";
  for (std::size_t length = 0; length < json.size(); ++length) {
    EXPECT_NE(ErrorOf(json.substr(0, length)), "no error") << length;
  }
  const std::string yaml = "a: &x [1, 'two']\nb: {c: *x}\nd:\n  - \"e\"\n";
  for (std::size_t length = 0; length < yaml.size(); ++length) {
    EXPECT_FALSE(ErrorOf(yaml.substr(0, length)).empty()) << length;
  }
}

TEST(DocumentTest, DuplicateKeysAreErrors) {
  EXPECT_EQ(ErrorOf("a: 1\nb: 2\na: 3\n"), "3:1: duplicate key: 'a'");
  EXPECT_EQ(ErrorOf("{\"a\": 1, \"a\": 2}"), "1:10: duplicate key: 'a'");
  std::string many;
  for (int i = 0; i < 100; ++i) many += "k" + std::to_string(i) + ": 1\n";
  EXPECT_EQ(ErrorOf(many), "no error");
  EXPECT_EQ(ErrorOf(many + "k5: 2\n"), "101:1: duplicate key: 'k5'");
  EXPECT_EQ(ErrorOf(many + "k99: 2\n"), "101:1: duplicate key: 'k99'");
}

TEST(DocumentTest, YamlThatNoFormatNeedsIsRefused) {
  EXPECT_EQ(ErrorOf("a: 1\n---\nb: 2\n"), "2:1: a second document: one is expected");
  EXPECT_THAT(ErrorOf("x: &x {a: 1}\ny:\n  <<: *x\n"), HasSubstr("3:3: merge keys"));
  EXPECT_THAT(ErrorOf("a: !!str 1\n"), HasSubstr("tags are not supported"));
  EXPECT_EQ(ErrorOf("? [a]\n: 1\n"), "1:3: a key must be plain or quoted text");
  EXPECT_EQ(ErrorOf("~: 1\n"), "1:1: a key must be plain or quoted text");
  EXPECT_EQ(ErrorOf("a: &x k\n*x : 1\n"), "2:1: a key must be plain or quoted text");
  EXPECT_EQ(ErrorOf("'<<': 1\n"), "no error");
}

TEST(DocumentTest, AliasesAreCopiesOfWhatTheyName) {
  const Node root = Parsed(
      "base: &base {a: 1, b: &b [x, y]}\n"
      "list:\n  - *base\n  - c: *b\n  - &s text\n  - *s\n");
  const Node& list = *root.Find("list");
  EXPECT_EQ(list.items[0].Find("b")->items[1].scalar, "y");
  EXPECT_EQ(list.items[1].Find("c")->items[0].scalar, "x");
  EXPECT_EQ(list.items[3].scalar, "text");
  EXPECT_EQ(ErrorOf("a: &a [1, *a]\n"), "1:11: an alias inside the value that it stands for");
  EXPECT_THAT(ErrorOf("a: *nowhere\n"), HasSubstr("not valid YAML"));
}

TEST(DocumentTest, AnAnchorThatIsSetAgainStandsForTheLatest) {
  const Node root = Parsed("a: &x 1\nb: *x\nc: &x 2\nd: *x\n");
  EXPECT_EQ(root.Find("b")->scalar, "1");
  EXPECT_EQ(root.Find("d")->scalar, "2");
}

TEST(DocumentTest, AnAliasBombStopsEarly) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int k = 0; k < 9; ++k) bomb += ", " + before;
    bomb += "]\n";
  }
  EXPECT_THAT(ErrorOf(bomb), HasSubstr("aliases expand to more than 200000 values"));

  std::string wide = "a: &a " + std::string(1 << 20, 'x') + "\nb:\n";
  for (int i = 0; i < 300; ++i) wide += "  - *a\n";
  EXPECT_THAT(ErrorOf(wide), HasSubstr("aliases expand to more than 268435456 bytes"));
}

TEST(DocumentTest, DeepNestingStops) {
  EXPECT_THAT(ErrorOf(Repeated("[", 1'000'000)), HasSubstr("nested more than 64 levels deep"));
  EXPECT_THAT(ErrorOf("a: " + Repeated("[", 64) + Repeated("]", 64)),
              HasSubstr("nested more than 64 levels"));
  EXPECT_THAT(ErrorOf("a: " + Repeated("{b: ", 5'000)), HasSubstr("nested more than 64 levels"));
  EXPECT_THAT(ErrorOf(Repeated("- ", 100'000)), HasSubstr("nested more than 64 levels deep"));
  EXPECT_EQ(ErrorOf(Repeated("[", 64) + Repeated("]", 64)), "no error");
  EXPECT_THAT(ErrorOf(Repeated("[", 65) + Repeated("]", 65)), HasSubstr("nested more than 64"));
}

TEST(DocumentTest, BytesThatAreNotTextAreRefusedWithTheirPlace) {
  EXPECT_THAT(ErrorOf(std::string_view("a: 1\nb: \0x\n", 11)),
              StartsWith("2:4: a control character that text can't have: 0x00"));
  EXPECT_THAT(ErrorOf("a: \x1b[0m\n"), HasSubstr("0x1b"));
  EXPECT_THAT(ErrorOf("a: \xff\n"), StartsWith("1:4: not UTF-8: byte 0xff"));
  EXPECT_THAT(ErrorOf("a: \xc0\xaf\n"), HasSubstr("not UTF-8"));          // Overlong.
  EXPECT_THAT(ErrorOf("a: \xed\xa0\x80\n"), HasSubstr("not UTF-8"));      // A surrogate.
  EXPECT_THAT(ErrorOf("a: \xf4\x90\x80\x80\n"), HasSubstr("not UTF-8"));  // Past U+10FFFF.
  EXPECT_THAT(ErrorOf("a: \xe2\x82"), HasSubstr("not UTF-8"));            // Cut off.
  EXPECT_EQ(ErrorOf("a: \xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\n"), "no error");
  EXPECT_EQ(ErrorOf("\xef\xbb\xbf{\"a\": 1}"), "no error");
  EXPECT_THAT(ErrorOf("{\"a\": \"\\u0000\"}"), HasSubstr("an escaped NUL character"));
  EXPECT_THAT(ErrorOf("a: \"\\0\"\n"), HasSubstr("an escaped NUL character"));
  EXPECT_THAT(ErrorOf("\"\\0\": 1\n"), HasSubstr("an escaped NUL character"));
}

TEST(DocumentTest, TooLargeIsRefusedBeforeItIsParsed) {
  EXPECT_THAT(ErrorOf(std::string(kYamlBytesMax + 1, 'x')), HasSubstr("at most 16777216 are read"));
  EXPECT_THAT(ErrorOf("[" + std::string(kDocumentBytesMax, ' ') + "]"),
              HasSubstr("at most 268435456 are read"));
}

Node Scalar(std::string_view text) {
  return *Parsed("v: " + std::string(text)).Find("v");
}

TEST(ScalarTest, OnlyTrueAndFalseAreBooleans) {
  EXPECT_TRUE(*ReadBool(Scalar("true")));
  EXPECT_FALSE(*ReadBool(Scalar("false")));
  for (const char* text : {"yes", "no", "on", "True", "1", "'true'", "[true]", "~"}) {
    EXPECT_FALSE(ReadBool(Scalar(text))) << text;
  }
}

TEST(ScalarTest, NumbersAreWholeTokensAndFinite) {
  EXPECT_EQ(*ReadNumber(Scalar("7e9")), 7e9);
  EXPECT_EQ(*ReadNumber(Scalar("-0.5")), -0.5);
  EXPECT_EQ(*ReadInteger(Scalar("7e9")), 7'000'000'000);
  EXPECT_EQ(*ReadInteger(Scalar("8.0")), 8);
  EXPECT_EQ(*ReadInteger(Scalar("9223372036854775807")), INT64_MAX);
  for (const char* text : {"1.5", "9223372036854775808", "1e300", "1e-3", "0x10", "1_000", "x"}) {
    EXPECT_FALSE(ReadInteger(Scalar(text))) << text;
  }
  for (const char* text : {".inf", "inf", "nan", ".nan", "1e999", "1 2", "'1'", "1,5", "+", ""}) {
    EXPECT_FALSE(ReadNumber(Scalar(text))) << text;
  }
  EXPECT_EQ(ReadNumber(Scalar("'12'")).error().hint, "write it without quotes");
}

TEST(ScalarTest, RangesAreNamedInTheError) {
  const auto message = [](const Result<double>& result) { return result.error().message; };
  EXPECT_EQ(message(ReadNumber(Scalar("250"), {.min = 0, .max = 100})),
            "1:4: must be from 0 to 100: 250");
  EXPECT_EQ(message(ReadNumber(Scalar("-1"), {.min = 0})), "1:4: must be at least 0: -1");
  EXPECT_EQ(message(ReadNumber(Scalar("7"), {.max = 6.5})), "1:4: must be at most 6.5: 7");
  EXPECT_TRUE(ReadNumber(Scalar("100"), {.min = 0, .max = 100}));
  EXPECT_FALSE(ReadInteger(Scalar("3"), {.min = 4}));
}

TEST(ScalarTest, AmountsOfMemoryHaveUnitsOrAreBytes) {
  EXPECT_EQ(*ReadBytes(Scalar("20GiB")), 20_GiB);
  EXPECT_EQ(*ReadBytes(Scalar("'20 GiB'")), 20_GiB);
  EXPECT_EQ(ReadBytes(Scalar("1024"))->count, 1024);
  EXPECT_EQ(ReadBytes(Scalar("-1GiB")).error().message, "1:4: not an amount of memory: '-1GiB'");
  EXPECT_EQ(*ReadMib(Scalar("20480")), 20_GiB);
  EXPECT_FALSE(ReadMib(Scalar("-1")));
  EXPECT_FALSE(ReadMib(Scalar("1.5")));
  EXPECT_FALSE(ReadMib(Scalar("1099511627776"))) << "2^60 bytes";
}

TEST(ScalarTest, TextIsAnyScalarAsWritten) {
  EXPECT_EQ(*ReadString(Scalar("8000")), "8000");
  EXPECT_EQ(*ReadString(Scalar("'8000'")), "8000");
  EXPECT_EQ(*ReadString(Scalar("no")), "no");
  EXPECT_EQ(ReadString(Scalar("[a]")).error().message, "1:4: text is expected here, not a list");
  EXPECT_EQ(ReadString(Scalar("~")).error().message, "1:4: text is expected here, not nothing");
}

TEST(SuggestForTest, ProposesTheClosestWithinTwoEdits) {
  const std::vector<std::string_view> known = {"replicas", "priority", "memory", "id"};
  EXPECT_EQ(SuggestFor("priorty", known), "did you mean 'priority'?");
  EXPECT_EQ(SuggestFor("repilcas", known), "did you mean 'replicas'?") << "a swap is one edit";
  EXPECT_EQ(SuggestFor("Memory", known), "did you mean 'memory'?");
  EXPECT_EQ(SuggestFor("memroyy", known), "did you mean 'memory'?");
  EXPECT_EQ(SuggestFor("gpus", known), "known are: replicas, priority, memory, id");
  EXPECT_EQ(SuggestFor("xy", known), "known are: replicas, priority, memory, id");
  EXPECT_EQ(SuggestFor("x", {}), "");
  EXPECT_EQ(SuggestFor(std::string(1'000'000, 'm'), known).substr(0, 9), "known are");
}

struct Thing {
  std::string name;
  int count = 7;
  double share = 0.5;
  std::optional<int> limit;
  Bytes memory;
  std::vector<std::string> words;
  bool on = false;
};

Result<Thing> ReadThing(const Node& node) {
  Thing thing;
  ObjectReader in(node, "thing");
  in.Version("test/v1");
  in.Required("name", thing.name);
  in.Optional("count", thing.count, {.min = 0});
  in.Optional("share", thing.share, {.min = 0, .max = 1});
  in.Optional("limit", thing.limit);
  in.Optional("memory", thing.memory);
  in.OptionalList("words", thing.words, ReadString);
  in.OptionalEnum("on", thing.on, {{"up", true}, {"down", false}});
  if (thing.count > 100 && !in.Has("limit")) in.Reject("count", "more than 100 need a limit");
  RETURN_IF_ERROR(in.Finish());
  return thing;
}

std::string ThingError(const std::string& text) {
  const Result<Thing> thing = ParseAs(text, "t.yaml", ReadThing);
  if (thing) return "no error";
  return thing.error().message + (thing.error().hint.empty() ? "" : " | " + thing.error().hint);
}

TEST(ObjectReaderTest, ReadsFieldsAndKeepsDefaults) {
  const Result<Thing> thing = ParseAs(
      "version: test/v1\nname: x\nlimit: 3\nwords: [a, b]\non: up\ncount: null\nmemory: 1GiB\n",
      "t.yaml", ReadThing);
  ASSERT_TRUE(thing) << thing.error().message;
  EXPECT_EQ(thing->name, "x");
  EXPECT_EQ(thing->count, 7);
  EXPECT_EQ(thing->limit, 3);
  EXPECT_EQ(thing->memory, 1_GiB);
  EXPECT_EQ(thing->words, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(thing->on);
}

TEST(ObjectReaderTest, AnUnknownKeyHasItsPlaceAndASuggestion) {
  EXPECT_EQ(ThingError("version: test/v1\nname: x\nconut: 3\n"),
            "t.yaml:3:1: unknown key in thing: 'conut' | did you mean 'count'?");
  EXPECT_EQ(ThingError("{\"version\": \"test/v1\", \"nmae\": \"x\"}"),
            "t.yaml:1:24: unknown key in thing: 'nmae' | did you mean 'name'?")
      << "goes before the missing key that it was meant to be";
}

TEST(ObjectReaderTest, AMissingKeyIsNamed) {
  EXPECT_EQ(ThingError("version: test/v1\n"), "t.yaml:1:1: missing key in thing: 'name'");
  EXPECT_EQ(ThingError("version: test/v1\nname:\n"), "t.yaml:2:1: missing value in thing: 'name'");
}

TEST(ObjectReaderTest, TheVersionMustBeTheOneThatIsRead) {
  EXPECT_EQ(ThingError("name: x\n"),
            "t.yaml:1:1: missing key in thing: 'version' | begin with the line version: test/v1");
  EXPECT_EQ(ThingError("version: test/v2\nnew_key: x\n"),
            "t.yaml:1:10: unknown version of thing: 'test/v2' | this program reads test/v1");
  EXPECT_EQ(ThingError("version: [1]\n"),
            "t.yaml:1:10: unknown version of thing: 'a list' | this program reads test/v1");
}

TEST(ObjectReaderTest, TheFirstErrorIsTheOneReported) {
  EXPECT_EQ(ThingError("version: test/v1\nname: x\nshare: 2\ncount: -1\n"),
            "t.yaml:4:8: must be at least 0: -1");
  EXPECT_EQ(ThingError("version: test/v1\nname: x\ncount: 200\n"),
            "t.yaml:3:8: more than 100 need a limit");
  EXPECT_EQ(ThingError("version: test/v1\nname: x\ncount: 3000000000\n"),
            "t.yaml:3:8: a number that large can't be right: 3000000000");
  EXPECT_EQ(ThingError("version: test/v1\nname: x\non: sideways\n"),
            "t.yaml:3:5: unknown value: 'sideways' | known are: up, down");
  EXPECT_EQ(ThingError("version: test/v1\nname: x\nwords: a\n"),
            "t.yaml:3:8: a list is expected here");
  EXPECT_EQ(ThingError("version: test/v1\nname: x\nwords: [a, [b]]\n"),
            "t.yaml:3:12: text is expected here, not a list");
  EXPECT_EQ(ThingError("- x\n"), "t.yaml:1:1: thing must be a map, not a list");
  EXPECT_EQ(ThingError("a: [\n").substr(0, 7), "t.yaml:");
}

double SecondsToRead(const std::string& text) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(ErrorOf(text).empty());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The shapes that make a careless parser work in the square of its input, which would take minutes.
TEST(DocumentTest, NoShapeOfTextTakesLong) {
  constexpr std::size_t kBytes = 300'000;
  for (const std::string_view piece : {"- x\n",       "a",
                                       "a: ",         "- - ",
                                       "[",           "{",
                                       "? ",          ": ",
                                       "&a ",         "*a ",
                                       "!",           "'",
                                       "\"",          "|\n",
                                       "#",           "\n",
                                       "\t",          "---\n",
                                       "%",           "- {a: 1, b: [2, 3]}\n",
                                       "- 'it''s'\n", "- |\n  text\n",
                                       ",",           "\"\",",
                                       "[]",          "{}",
                                       "&a\n",        "- &a x\n"}) {
    const std::string repeated = Repeated(piece, kBytes / piece.size());
    for (const char* begin : {"", "x\n", "a:\n", "[", "{\"a\":", "[1,", "a: ["}) {
      EXPECT_LT(SecondsToRead(begin + repeated), 10) << "after '" << begin << "': " << piece;
    }
  }
}

TEST(DocumentTest, TenMegabytesOfYamlTakeSeconds) {
  const std::string workload = "  - {name: chat, memory: 20GiB, replicas: 4, env: {A: \"1\"}}\n";
  const std::string text = "workloads:\n" + Repeated(workload, 10'000'000 / workload.size());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(ErrorOf(text), "no error");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count(), 60) << "1.5 s in a release build; the rest is for sanitizers";
}

}  // namespace
}  // namespace sublet
